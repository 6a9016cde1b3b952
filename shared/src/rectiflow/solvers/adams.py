"""Adams-Bashforth methods, plain or with momentum: one evaluation per step, past ones reused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.solvers.base import History, Move, Solver, combine
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space

_MAX_TERMS = 5  # beyond, the stability interval is too short to be of use
_RK4 = RK4()
_FEWEST_STEPS_TO_START = 8  # with fewer, the extra evaluations of a start are better spent on steps

# Numerators (p + q beta) of the averaged method, newest first, and its denominator over beta.
_AVERAGED: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    1: (1, ((0, 1),)),
    2: (2, ((2, 1), (-2, 1))),
    3: (12, ((18, 5), (-24, 8), (6, -1))),
    4: (24, ((46, 9), (-78, 19), (42, -5), (-10, 1))),
    5: (720, ((1650, 251), (-3420, 646), (2880, -264), (-1380, 106), (270, -19))),
}


@dataclass(frozen=True)
class Averages:
    """What a momentum remembers: its running averages, newest first."""

    states: tuple[State, ...]


class Momentum(ABC):
    """A running average inside an Adams method; it widens the stability interval.

    Parameters
    ----------
    beta : float
        Weight of the new value, in ``(0, 1]``; 1 is no momentum. Smaller is more stable and less
        accurate.

    Raises
    ------
    ValueError
        When ``beta`` is outside ``(0, 1]``.
    """

    def __init__(self, beta: float) -> None:
        if not 0.0 < beta <= 1.0:
            raise ValueError(f"beta must be in (0, 1], got {beta}; expected 0.5 to 1 in practice")
        self.beta = beta

    @abstractmethod
    def order(self, terms: int) -> int:
        """Return the order of the method with ``terms`` velocities."""

    @abstractmethod
    def direction(
        self,
        velocities: list[State],
        nodes: list[float],
        past: Averages | None,
        terms: int,
    ) -> tuple[State, Averages]:
        """Return the direction of a step and what to remember.

        ``velocities`` are newest first, at ``nodes`` in units of the step (0, -1, ...).
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.beta})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.beta == other.beta

    def __hash__(self) -> int:
        return hash((type(self), self.beta))


class GeneralisedHeavyBall(Momentum):
    r"""GHVB: average the velocities, then correct for the lag; keeps the order of the method.

    .. math:: u_n = (1 - \beta) u_{n-1} + \beta g_n, \qquad
              x_{n+1} = x_n + h \sum_{i=1}^{m} w_i(\beta)\, u_{n+1-i}

    The real-axis stability interval grows from 2 to :math:`2(2-\beta)/\beta` for one term and from
    1 to :math:`2 - \beta` for two. The weights are for equal steps.

    References
    ----------
    Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts"
    (ICLR 2024). Official code: sWizad/momentum-diffusion, whose start limits the order to 2.
    """

    def order(self, terms: int) -> int:
        """Return ``terms``: the lag of the average is corrected."""
        return terms

    def direction(
        self,
        velocities: list[State],
        nodes: list[float],
        past: Averages | None,
        terms: int,
    ) -> tuple[State, Averages]:
        """Advance the average and combine its last values."""
        if past is None:
            states = _settled_averages(velocities, self.beta)
        else:
            newest = combine((1 - self.beta, self.beta), (past.states[0], velocities[0]))
            states = (newest, *past.states)[:terms]
        denominator, numerators = _AVERAGED[len(states)]
        weights = [(p + q * self.beta) / (denominator * self.beta) for p, q in numerators]
        return combine(weights, states), Averages(states)


class HeavyBall(Momentum):
    r"""Polyak's heavy ball: average the directions of the Adams method; first order.

    .. math:: u_n = (1 - \beta) u_{n-1} + \beta a_n, \qquad x_{n+1} = x_n + h\,u_n

    References
    ----------
    Wizadwongsa et al. (ICLR 2024), the HB variant.
    """

    def order(self, terms: int) -> int:
        """Return 1 unless ``beta`` is 1: the average lags behind."""
        return terms if self.beta == 1.0 else 1

    def direction(
        self,
        velocities: list[State],
        nodes: list[float],
        past: Averages | None,
        terms: int,
    ) -> tuple[State, Averages]:
        """Average the directions."""
        raw = combine(adams_weights(nodes), velocities)
        average = raw
        if past is not None:
            average = combine((1 - self.beta, self.beta), (past.states[0], raw))
        return self._step(average, raw), Averages((average,))

    def _step(self, average: State, raw: State) -> State:
        return average


class Nesterov(HeavyBall):
    r"""Nesterov's momentum: as :class:`HeavyBall`, looking ahead; first order.

    :math:`x_{n+1} = x_n + h\,[(1 - \beta) u_n + \beta a_n]`.
    """

    def _step(self, average: State, raw: State) -> State:
        return combine((1 - self.beta, self.beta), (average, raw))


class Adams(Solver):
    r"""Adams-Bashforth of order k (PLMS), with or without momentum; one evaluation per step.

    .. math:: x_{n+1} = x_n + h \sum_{i=0}^{k-1} w_i\, v(x_{n-i}, t_{n-i})

    The weights integrate the interpolating polynomial, so the order holds on any grid. Flat spaces
    only.

    Parameters
    ----------
    order : int
        Number of velocities combined, 1 to 5: the order of the plain method.
    momentum : Momentum, optional
        :class:`GeneralisedHeavyBall` averages the velocities that come in, :class:`HeavyBall` and
        :class:`Nesterov` the directions that go out.
    start : Solver or None
        Takes the first ``order - 1`` steps of a plan of 8 or more, where the order is above 2. None
        starts with methods of growing order, as the published code does, which limits the global
        error to order 2.

    Raises
    ------
    ValueError
        When ``order`` is not 1 to 5.

    Notes
    -----
    A plan costs N evaluations, and with the RK4 start ``3 (order - 1)`` more. For inversion plan
    the reversed grid, ``plan(grid[::-1], Adams(4))``: the reverse of a plan ends with its start.
    """

    def __init__(
        self, order: int, momentum: Momentum | None = None, *, start: Solver | None = _RK4
    ) -> None:
        if not 1 <= order <= _MAX_TERMS:
            raise ValueError(f"order must be 1 to {_MAX_TERMS}, got {order}; expected 2 to 4")
        self.terms = order
        self.order = order if momentum is None else momentum.order(order)
        self.nfe = 1
        self.memory = order - 1 if momentum is None else max(order - 1, 1)
        self.momentum = momentum
        self.start = start

    def moves(self, grid: Sequence[float]) -> list[Move]:
        """Lay out the starting steps and the rest."""
        moves = super().moves(grid)
        if self.start is None or self.order <= 2 or len(moves) < _FEWEST_STEPS_TO_START:
            return moves
        first, rest = moves[: self.terms - 1], moves[self.terms - 1 :]
        return [move._replace(solver=self.start) for move in first] + rest

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
        newest = field(x, start) if v is None else v
        velocities, nodes = [newest], [0.0]
        past = history.before(start, stop)
        for record in past[: self.terms - 1]:
            if record.v is None:
                break
            velocities.append(record.v)
            nodes.append((record.t - start) / h)
        if self.momentum is None:
            direction, memo = combine(adams_weights(nodes), velocities), None
        else:
            memo = past[0].memo if past and isinstance(past[0].memo, Averages) else None
            direction, memo = self.momentum.direction(velocities, nodes, memo, self.terms)
        history.push(start, x, newest, stop, memo)
        return space.move(x, direction, h)

    def __repr__(self) -> str:
        momentum = "" if self.momentum is None else f", {self.momentum}"
        return f"Adams({self.terms}{momentum})"


def adams_weights(nodes: Sequence[float]) -> list[float]:
    """Integrate the polynomial through values at ``nodes`` over ``[0, 1]``; one weight per node."""
    return _apply(nodes, [1.0 / (power + 1) for power in range(len(nodes))])


def _settled_averages(velocities: list[State], beta: float) -> tuple[State, ...]:
    """Averages, newest first, as if the velocities had followed their polynomial for ever.

    Starting the average at the first velocity instead leaves an error of one step's size in it,
    and order 2 at best.
    """
    count = len(velocities)
    nodes = [-float(i) for i in range(count)]
    # Moments of -K, where K is geometric: the age of the value that an average picks.
    moments = [1.0]
    for p in range(1, count):
        earlier = sum(math.comb(p, r) * (-1.0) ** (p - r) * moments[r] for r in range(p))
        moments.append((1 - beta) / beta * earlier)

    def average(age: int) -> State:
        shifted = [
            sum(math.comb(p, r) * (-float(age)) ** (p - r) * moments[r] for r in range(p + 1))
            for p in range(count)
        ]
        return combine(_apply(nodes, shifted), velocities)

    return tuple(average(age) for age in range(count))


def _apply(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """Weights of a linear functional on polynomials, given its values on 1, s, s², ..."""
    weights = []
    for j, own in enumerate(nodes):
        basis = [1.0]  # Lagrange polynomial of this node, powers rising
        for i, other in enumerate(nodes):
            if i != j:
                lower, upper = [*basis, 0.0], [0.0, *basis]
                basis = [(b - other * a) / (own - other) for a, b in zip(lower, upper, strict=True)]
        weights.append(sum(c * m for c, m in zip(basis, moments, strict=True)))
    return weights
