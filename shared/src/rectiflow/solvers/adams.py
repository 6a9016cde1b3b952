"""Adams-Bashforth methods, plain or with momentum: one evaluation per step, past ones reused."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from rectiflow.solvers.base import Move, Solver, by_length, combine, of_times
from rectiflow.solvers.context import Context, Memory, Time, has
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.states import State, select

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField

_RK4 = RK4()
_MAX_TERMS = 5  # beyond, the stability interval is too short to be of use

# Numerators (p + q beta) of the averaged method, newest first, and its denominator over beta.
_AVERAGED: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    1: (1, ((0, 1),)),
    2: (2, ((2, 1), (-2, 1))),
    3: (12, ((18, 5), (-24, 8), (6, -1))),
    4: (24, ((46, 9), (-78, 19), (42, -5), (-10, 1))),
    5: (720, ((1650, 251), (-3420, 646), (2880, -264), (-1380, 106), (270, -19))),
}


_Chain: TypeAlias = tuple[tuple[Time, State], ...]
_Sum: TypeAlias = tuple[Sequence[Time], list[State], list[State]]


class _Family(Solver):
    """What the Adams methods share: which velocities are known, and how a run starts."""

    terms: int
    start: Solver | None
    fewest: int
    nfe = 1
    leaves = ("velocity",)

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= _MAX_TERMS:
            raise ValueError(f"order must be 1 to {_MAX_TERMS}, got {self.terms}; expected 2 to 4")
        beta = getattr(self, "beta", 1.0)
        if not 0.0 < beta <= 1.0:
            raise ValueError(f"beta must be in (0, 1], got {beta}; expected 0.5 to 1 in practice")

    reads = property(lambda self: {"velocity": self.terms - 1})

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """One, or that of the start where velocities are missing."""
        if self._has_start and known.get("velocity", 0) < self.terms - 1:
            return self.start.cost(start, stop, known)  # type: ignore[union-attr]
        return 1

    _has_start = property(lambda self: self.start is not None and self.order > 2)

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the moves; a few are better spent without a start."""
        if not self._has_start:
            return super().moves(times)
        start = None if len(times) - 1 < self.fewest else self.start
        settled: Any = replace(self, start=start, fewest=0)  # type: ignore[type-var]
        return [move._replace(solver=settled) for move in super().moves(times)]

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        past = context.past(start, stop)
        velocities = past.get("velocity")[: self.terms - 1]
        enough: bool | Tensor = True
        if self._has_start:
            full = len(velocities) == self.terms - 1
            enough = has(velocities[-1][0]) if full else False
        if enough is False and self.start is not None:
            return self.start.step(field, x, start, stop, context)
        begin, v = context.begin(field, x, start)
        weights, states, averages = self._direction(
            [v, *(value for _, value in velocities)],
            (start, stop, *(t for t, _ in velocities)),
            past.get("average"),
        )
        moved = combine((1.0, *weights), (begin, *states))
        memory = context.remember(start, stop, velocity=v)
        if enough is not True and self.start is not None:
            moved = select(enough, moved, self.start.step(field, x, start, stop, context)[0])
        if averages and memory is not None:
            times = [start, *(t for t, _ in velocities)]
            chain = tuple(
                (t if enough is True else select(enough, t, math.nan), u)
                for t, u in zip(times, averages[: self.reads["average"]], strict=False)
            )
            memory = memory._replace(values={**memory.values, "average": chain})
        return moved, memory

    @abstractmethod
    def _direction(self, velocities: list[State], times: Sequence[Time], past: _Chain) -> _Sum:
        """Return weights and states whose sum is the way to go, and the averages to remember.

        ``velocities`` are newest first; ``times`` are start and stop of the move, and those of the
        velocities after the first.
        """


@dataclass(frozen=True)
class Adams(_Family):
    r"""Adams-Bashforth of order k (PLMS); one evaluation per step.

    .. math:: x_{n+1} = x_n + h \sum_{i=0}^{k-1} w_i\, v(x_{n-i}, t_{n-i})

    The weights integrate the interpolating polynomial, so the order holds on any grid. Flat spaces
    only.

    Parameters
    ----------
    order : int
        Number of velocities combined, 1 to 5.
    start : Solver or None
        Takes the steps for which too few velocities are known, where the order is above 2. None
        takes them with methods of growing order, as the published code does, which limits the
        global error to order 2.
    fewest : int, default 8
        Plans of fewer steps do without ``start``: its evaluations are better spent on steps.

    Raises
    ------
    ValueError
        When ``order`` is not 1 to 5.

    Notes
    -----
    A plan costs N evaluations, and with the RK4 start ``3 (order - 1)`` more.
    """

    order: int
    start: Solver | None = _RK4
    fewest: int = 8

    terms = property(lambda self: self.order)

    def _direction(self, velocities: list[State], times: Sequence[Time], past: _Chain) -> _Sum:
        return _steps(*times), velocities, []


@dataclass(frozen=True)
class GHVB(_Family):
    r"""Generalised heavy ball: Adams on averaged velocities, corrected for their lag.

    .. math:: u_n = (1 - \beta) u_{n-1} + \beta g_n, \qquad
              x_{n+1} = x_n + h \sum_{i=1}^{m} w_i(\beta)\, u_{n+1-i}

    The order is that of the plain method. The real-axis stability interval grows from 2 to
    :math:`2(2-\beta)/\beta` for one term and from 1 to :math:`2 - \beta` for two. The weights are
    for equal steps. Flat spaces only.

    Parameters
    ----------
    order : int
        Number of averages combined, 1 to 5.
    beta : float
        Weight of the new velocity, in ``(0, 1]``; 1 is no momentum. Smaller is more stable and
        less accurate. The paper's order 1.8 is ``GHVB(2, 0.8)``.
    start, fewest
        As for :class:`Adams`.

    Raises
    ------
    ValueError
        When ``order`` is not 1 to 5 or ``beta`` is outside ``(0, 1]``.

    References
    ----------
    Wizadwongsa et al., "Diffusion Sampling with Momentum for Mitigating Divergence Artifacts"
    (ICLR 2024). Official code: sWizad/momentum-diffusion, whose start limits the order to 2.
    """

    order: int
    beta: float
    start: Solver | None = _RK4
    fewest: int = 8

    terms = property(lambda self: self.order)

    reads = property(lambda self: {"velocity": self.order - 1, "average": max(self.order - 1, 1)})

    def _direction(self, velocities: list[State], times: Sequence[Time], past: _Chain) -> _Sum:
        known = [has(t) for t in times[2:]]
        going = has(past[0][0]) if past else False
        if going is not False:
            newest = combine((1 - self.beta, self.beta), (past[0][1], velocities[0]))
            chain = [newest, *(u for _, u in past)][: self.order]
            lengths = [has(t) for t, _ in past]
        if going is not True:
            settled = [self._settled(age, known, velocities) for age in range(len(velocities))]
            if going is False:
                chain, lengths = settled, known
            else:
                size = max(len(chain), len(settled))
                blank = combine((0.0,), velocities[:1])
                pairs = zip_longest(chain, settled, fillvalue=blank)
                chain = [select(going, a, b) for a, b in pairs][:size]
                masks = zip_longest(lengths, known, fillvalue=False)
                lengths = [(going & a) | (~going & b) for a, b in masks]

        weights = _averaged_steps(times[0], times[1], self.beta, *lengths[: len(chain) - 1])
        return weights, chain, chain

    def _settled(self, age: int, known: list[bool | Tensor], velocities: list[State]) -> State:
        weights = by_length(known, lambda count: _settled_weights(count + 1, age, self.beta))
        return combine(weights, velocities)


@dataclass(frozen=True)
class HB(_Family):
    r"""Polyak's heavy ball: the directions of an Adams method, averaged; first order.

    .. math:: u_n = (1 - \beta) u_{n-1} + \beta a_n, \qquad x_{n+1} = x_n + h\,u_n

    Flat spaces only.

    Parameters
    ----------
    terms : int
        Number of velocities combined in a direction, 1 to 5.
    beta : float
        Weight of the new direction, in ``(0, 1]``; 1 is :class:`Adams` without a start.

    Raises
    ------
    ValueError
        When ``terms`` is not 1 to 5 or ``beta`` is outside ``(0, 1]``.

    References
    ----------
    Wizadwongsa et al. (ICLR 2024), the HB variant.
    """

    terms: int
    beta: float
    start = None

    order = property(lambda self: self.terms if self.beta == 1.0 else 1)  # the average lags
    reads = property(lambda self: {"velocity": self.terms - 1, "average": 1})

    def _direction(self, velocities: list[State], times: Sequence[Time], past: _Chain) -> _Sum:
        weights, going = _weights(*times), has(past[0][0]) if past else False
        average: Any = combine(weights, velocities) if going is not True else None
        if going is not False:
            mixed = (1 - self.beta, *(self.beta * w for w in weights))
            average = select(going, combine(mixed, (past[0][1], *velocities)), average)
        return [times[1] - times[0]], [average], [average]


@of_times
def _weights(start: Time, stop: Time, *past: Time) -> list[Time]:
    """Weights of the velocities at ``start`` and at past times, in units of the step."""
    nodes = [0.0, *((t - start) / (stop - start) for t in past)]
    return by_length([has(t) for t in past], lambda count: adams_weights(nodes[: count + 1]))


@of_times
def _steps(start: Time, stop: Time, *past: Time) -> list[Time]:
    return [(stop - start) * weight for weight in _weights(start, stop, *past)]


@of_times
def _averaged_steps(start: Time, stop: Time, beta: float, *known: bool | Tensor) -> list[Time]:
    def weights(count: int) -> list[float]:
        denominator, numerators = _AVERAGED[count + 1]
        return [(p + q * beta) / (denominator * beta) for p, q in numerators]

    return [(stop - start) * weight for weight in by_length(known, weights)]


def adams_weights(nodes: Sequence[Time]) -> list[Time]:
    """Integrate the polynomial through values at ``nodes`` over ``[0, 1]``; one weight per node."""
    return _apply(nodes, [1.0 / (power + 1) for power in range(len(nodes))])


def _settled_weights(count: int, age: int, beta: float) -> list[Time]:
    """Weights, newest first, of the average that was made ``age`` steps ago.

    As if the velocities had followed their polynomial for ever. Starting the average at the first
    velocity instead leaves an error of one step's size in it, and order 2 at best.
    """
    # Moments of -K, where K is geometric: the age of the value that an average picks.
    moments = [1.0]
    for p in range(1, count):
        earlier = sum(math.comb(p, r) * (-1.0) ** (p - r) * moments[r] for r in range(p))
        moments.append((1 - beta) / beta * earlier)
    shifted = [
        sum(math.comb(p, r) * (-float(age)) ** (p - r) * moments[r] for r in range(p + 1))
        for p in range(count)
    ]
    return _apply([-float(i) for i in range(count)], shifted)


def _apply(nodes: Sequence[Time], moments: Sequence[float]) -> list[Time]:
    """Weights of a linear functional on polynomials, given its values on 1, s, s², ..."""
    weights = []
    for j, own in enumerate(nodes):
        basis: list[Time] = [1.0]  # Lagrange polynomial of this node, powers rising
        for i, other in enumerate(nodes):
            if i != j:
                lower, upper = [*basis, 0.0], [0.0, *basis]
                basis = [(b - other * a) / (own - other) for a, b in zip(lower, upper, strict=True)]
        weights.append(sum(c * m for c, m in zip(basis, moments, strict=True)))
    return weights
