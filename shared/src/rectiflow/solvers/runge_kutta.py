"""Explicit Runge-Kutta methods: one step at a time, nothing carried over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
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
        object.__setattr__(self, "a", tuple(tuple(map(float, row)) for row in self.a))
        object.__setattr__(self, "b", tuple(map(float, self.b)))
        object.__setattr__(self, "c", tuple(map(float, self.c)))
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

    @cached_property
    def stages(self) -> list[tuple[float, tuple[tuple[int, float], ...]]]:
        """Time and nonzero coefficients (stage, weight) of each stage after the first."""
        return [(time, _nonzero(row)) for time, row in zip(self.c, self.a, strict=True)]

    @cached_property
    def final(self) -> tuple[tuple[int, float], ...]:
        """The nonzero weights of the stages."""
        return _nonzero(self.b)


@dataclass(frozen=True)
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

    tableau: ButcherTableau
    order: int

    nfe = property(lambda self: len(self.tableau.b))
    # The last velocity too, where it is another one than the first.
    leaves = property(lambda self: ("state", "velocity", "carried")[: min(self.nfe + 1, 3)])

    @property
    def flat_only(self) -> bool:  # type: ignore[override]
        """Whether a stage mixes velocities."""
        tableau = self.tableau
        return any(len(used) > 1 for used in (tableau.final, *(s for _, s in tableau.stages)))

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        h, tableau = stop - start, self.tableau
        x, v = context.begin(field, x, start)
        k = [v]
        for time, used in tableau.stages:
            # Not start + h, which may round to beyond the end of the path.
            at = stop if time == 1.0 else start + time * h
            k.append(field(_advance(context.space, x, k, used, h), at))
        carried = {"carried": k[-1]} if tableau.stages else {}
        memory = context.remember(start, stop, state=x, velocity=v, **carried)
        return _advance(context.space, x, k, tableau.final, h), memory


def _nonzero(row: Sequence[float]) -> tuple[tuple[int, float], ...]:
    return tuple((stage, weight) for stage, weight in enumerate(row) if weight)


def _advance(
    space: Space, x: State, k: list[State], used: tuple[tuple[int, float], ...], h: Time
) -> State:
    if len(used) == 1:
        ((stage, weight),) = used
        return space.move(x, k[stage], h if weight == 1.0 else weight * h)
    weights = [weight * h for _, weight in used]
    return combine((1.0, *weights), (x, *(k[stage] for stage, _ in used)))


_EULER = ButcherTableau(a=(), b=(1.0,), c=())
_MIDPOINT = ButcherTableau(a=((0.5,),), b=(0.0, 1.0), c=(0.5,))
_HEUN = ButcherTableau(a=((1.0,),), b=(0.5, 0.5), c=(1.0,))
_RK4 = ButcherTableau(
    a=((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    c=(0.5, 0.5, 1.0),
)


@dataclass(frozen=True)
class Euler(RungeKutta):
    r"""Euler's method, order 1, one evaluation: :math:`x_{n+1} = x_n + h\,v(x_n, t_n)`.

    On the linear path it is DDIM and DPM-Solver-1. Runs on every space.
    """

    tableau: ButcherTableau = field(init=False, repr=False, default=_EULER)
    order: int = field(init=False, repr=False, default=1)


@dataclass(frozen=True)
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

    tableau: ButcherTableau = field(init=False, repr=False, default=_MIDPOINT)
    order: int = field(init=False, repr=False, default=2)


@dataclass(frozen=True)
class Heun(RungeKutta):
    r"""Heun's second-order method (explicit trapezoid); two evaluations per step.

    .. math:: x_{n+1} = x_n + \tfrac{h}{2}\bigl[v(x_n, t_n) + v(x_n + h\,v(x_n, t_n), t_n + h)\bigr]

    Evaluates the field at the end of the step, t = 1 included. Flat spaces only. Not to be confused
    with Heun's third-order method.
    """

    tableau: ButcherTableau = field(init=False, repr=False, default=_HEUN)
    order: int = field(init=False, repr=False, default=2)


@dataclass(frozen=True)
class RK4(RungeKutta):
    r"""The classical fourth-order method; four evaluations per step. Flat spaces only.

    :math:`x_{n+1} = x_n + \tfrac{h}{6}(k_1 + 2 k_2 + 2 k_3 + k_4)`, with the midpoint taken twice.
    """

    tableau: ButcherTableau = field(init=False, repr=False, default=_RK4)
    order: int = field(init=False, repr=False, default=4)
