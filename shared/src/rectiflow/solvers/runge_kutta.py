"""Explicit Runge-Kutta methods: one step at a time, nothing carried over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.solvers.base import History, Solver, combine
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space


@dataclass(frozen=True)
class ButcherTableau:
    r"""Coefficients of an explicit Runge-Kutta method.

    .. math:: k_i = v\Bigl(x + h \sum_{j<i} a_{ij} k_j,\; t + c_i h\Bigr), \qquad
              x_{n+1} = x_n + h \sum_i b_i k_i

    Parameters
    ----------
    a : tuple of tuples of float
        Row i - 1 holds the i coefficients of stage i; the first stage has none and is left out.
    b : tuple of float
        Weights of the stages; they sum to 1.
    c : tuple of float
        Times of the stages after the first, the row sums of ``a``.

    Raises
    ------
    ValueError
        When the shapes do not fit or the sums do not agree.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]

    def __post_init__(self) -> None:
        stages = len(self.b)
        if [len(row) for row in self.a] != list(range(1, stages)) or len(self.c) != stages - 1:
            raise ValueError(
                f"tableau does not fit together, got {stages} weights, rows of "
                f"{[len(row) for row in self.a]} and {len(self.c)} times; expected rows of 1, 2, "
                "... coefficients, one row and one time for every stage but the first"
            )
        for row, time in zip(self.a, self.c, strict=True):
            if not math.isclose(math.fsum(row), time, rel_tol=1e-12, abs_tol=1e-12):
                raise ValueError(
                    f"stage times must be the row sums, got {time} for the row {row}; "
                    f"expected {math.fsum(row)}"
                )
        if not math.isclose(math.fsum(self.b), 1.0, rel_tol=1e-12):
            raise ValueError(f"weights must sum to 1, got {self.b}; expected a consistent method")


@dataclass(frozen=True)
class Carry:
    """A velocity near the end of a move, for a successor that reuses it as its first stage."""

    v: State


class RungeKutta(Solver):
    """An explicit Runge-Kutta method, one velocity evaluation per stage.

    Where every stage uses one velocity only (Euler, midpoint) it runs on every space; methods that
    mix the velocities of several stages need a flat one.

    Parameters
    ----------
    tableau : ButcherTableau
        Its coefficients.
    order : int
        The order of its global error.
    """

    takes_tensor_times = True

    def __init__(self, tableau: ButcherTableau, order: int) -> None:
        self.tableau = tableau
        self.order = order
        self.nfe = len(tableau.b)
        self._stages = [
            (time, *_nonzero(row)) for time, row in zip(tableau.c, tableau.a, strict=True)
        ]
        self._final = _nonzero(tableau.b)
        self.flat_only = any(len(used) > 1 for used, _ in (s[1:] for s in self._stages)) or (
            len(self._final[0]) > 1
        )

    def step(
        self,
        field: VelocityField,
        x: State,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> State:
        """Advance ``x`` by one step; see :meth:`Solver.step`."""
        h = stop - start
        k = [field(x, start) if v is None else v]
        for time, used, weights in self._stages:
            point = _advance(space, x, k, used, weights, h)
            # Not start + h, which may round to beyond the end of the path.
            k.append(field(point, stop if time == 1.0 else start + time * h))
        if history.size:
            history.push(start, x, k[0], stop, Carry(k[-1]) if self._stages else None)
        return _advance(space, x, k, *self._final, h)

    def __repr__(self) -> str:
        return f"RungeKutta({self.tableau}, order={self.order})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RungeKutta) and self.tableau == other.tableau

    def __hash__(self) -> int:
        return hash(self.tableau)


def _nonzero(row: Sequence[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return which stages a row uses, and with which weights."""
    used = tuple(j for j, weight in enumerate(row) if weight)
    return used, tuple(row[j] for j in used)


def _advance(
    space: Space,
    x: State,
    k: list[State],
    used: tuple[int, ...],
    weights: tuple[float, ...],
    h: float,
) -> State:
    if len(used) == 1:
        return space.move(x, k[used[0]], weights[0] * h)
    return space.move(x, combine(weights, [k[j] for j in used]), h)


class Euler(RungeKutta):
    r"""Euler's method, order 1, one evaluation: :math:`x_{n+1} = x_n + h\,v(x_n, t_n)`.

    On the linear path it is DDIM and DPM-Solver-1. Runs on every space.
    """

    def __init__(self) -> None:
        super().__init__(ButcherTableau(a=(), b=(1.0,), c=()), order=1)

    def __repr__(self) -> str:
        return "Euler()"


class Midpoint(RungeKutta):
    r"""The explicit midpoint rule, which is RF-Solver of order 2; two evaluations per step.

    .. math:: x_{n+1} = x_n + h\,v\bigl(x_n + \tfrac{h}{2} v(x_n, t_n),\; t_n + \tfrac{h}{2}\bigr)

    RF-Solver writes the step as a Taylor expansion with a finite-difference derivative,
    :math:`x + h v_0 + \tfrac{h^2}{2}\,\frac{v_m - v_0}{h/2}`, which is the same number. It never
    evaluates the field at the end of the step, so networks that were not trained at t = 1 are safe.
    Runs on every space; on rotations it keeps its order 2.

    References
    ----------
    Wang et al., "Taming Rectified Flow for Inversion and Editing" (ICML 2025), Algorithm 1.
    Official code: wangjiangshan0725/RF-Solver-Edit, equal to rounding.
    """

    def __init__(self) -> None:
        super().__init__(ButcherTableau(a=((0.5,),), b=(0.0, 1.0), c=(0.5,)), order=2)

    def __repr__(self) -> str:
        return "Midpoint()"


class Heun(RungeKutta):
    r"""Heun's second-order method (explicit trapezoid); two evaluations per step.

    .. math:: x_{n+1} = x_n + \tfrac{h}{2}\bigl[v(x_n, t_n) + v(x_n + h\,v(x_n, t_n), t_n + h)\bigr]

    Evaluates the field at the end of the step, t = 1 included. Flat spaces only. Not to be confused
    with Heun's third-order method.
    """

    def __init__(self) -> None:
        super().__init__(ButcherTableau(a=((1.0,),), b=(0.5, 0.5), c=(1.0,)), order=2)

    def __repr__(self) -> str:
        return "Heun()"


class RK4(RungeKutta):
    r"""The classical fourth-order method; four evaluations per step. Flat spaces only.

    :math:`x_{n+1} = x_n + \tfrac{h}{6}(k_1 + 2 k_2 + 2 k_3 + k_4)`, with the midpoint taken twice.
    """

    def __init__(self) -> None:
        tableau = ButcherTableau(
            a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
            b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
            c=(0.5, 0.5, 1.0),
        )
        super().__init__(tableau, order=4)

    def __repr__(self) -> str:
        return "RK4()"
