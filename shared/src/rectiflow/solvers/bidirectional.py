"""BDIA: a two-state recursion that can be undone exactly."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.solvers.base import History, Solver, combine
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space

_WORST_GROWTH = 1e6  # rounding errors of float64 stay below 1e-9 up to here


@dataclass(frozen=True)
class Pair:
    """Two neighbouring states of a trajectory: all that exact inversion needs, and no less.

    Attributes
    ----------
    low, high : State
        The states at ``t_low`` and ``t_high``; after sampling ``high`` is the sample.
    t_low, t_high : float
        Their times, ``t_low < t_high``.
    growth : float
        By how much inversion has amplified rounding errors so far.
    """

    low: State
    high: State
    t_low: float
    t_high: float
    growth: float = 1.0


class Bidirectional(Solver):
    r"""Bidirectional integration approximation (BDIA) with Euler increments; exactly invertible.

    .. math:: x_{n+1} = \gamma x_{n-1} + (1 - \gamma) x_n + (h_n + \gamma h_{n-1})\, v(x_n, t_n)

    and the same equation solved for :math:`x_{n-1}` going down. Its state is a :class:`Pair`: a
    plain state is accepted at the first move, which is then an Euler step, and a pair comes out.
    Go on from a pair to undo or redo it; keeping one of the two states only loses the inverse.

    One evaluation per step, order 2 at ``gamma = 1`` on equal steps (the leapfrog), order 1 below.
    Flat spaces only.

    Parameters
    ----------
    gamma : float, default 1
        Weight of the earlier state in ``(0, 1]``. Inversion amplifies errors by ``1/gamma`` per
        step: exact to rounding at 1, of no use at 0.5 beyond about 16 steps (a warning says so).

    Raises
    ------
    ValueError
        When ``gamma`` is outside ``(0, 1]``, or a pair does not border on the move.

    References
    ----------
    Zhang et al., "Exact Diffusion Inversion via Bi-directional Integration Approximation"
    (ECCV 2024), Eq. (12) in flow form.

    Examples
    --------
    >>> import torch
    >>> from rectiflow.grids import uniform
    >>> from rectiflow.integrate import integrate, plan, reverse
    >>> moves = plan(uniform(8), Bidirectional())
    >>> x0 = torch.ones(1, 1, dtype=torch.float64)
    >>> there = integrate(lambda x, t: -x, x0, moves)
    >>> back = integrate(lambda x, t: -x, there, reverse(moves))
    >>> bool((back.low - x0).abs() < 1e-14)
    True
    """

    nfe = 1

    def __init__(self, gamma: float = 1.0) -> None:
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must be in (0, 1], got {gamma}; expected 1 for inversion")
        self.gamma = gamma
        self.order = 2 if gamma == 1.0 else 1

    def step(  # type: ignore[override]
        self,
        field: VelocityField,
        x: State | Pair,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> Pair:
        """Advance a pair, or make one of a state; see :meth:`Solver.step`."""
        if not isinstance(x, Pair):
            v = field(x, start) if v is None else v
            moved = space.move(x, v, stop - start)
            history.push(start, x, v, stop)
            return Pair(x, moved, start, stop) if start < stop else Pair(moved, x, stop, start)
        if {x.t_low, x.t_high} == {start, stop}:
            return x
        if start < stop and x.t_high == start:
            return self._up(field, x, stop, history, v)
        if start > stop and x.t_low == start:
            return self._down(field, x, stop, history, v)
        raise ValueError(
            f"the pair does not border on the move, got a pair at ({x.t_low}, {x.t_high}) and a "
            f"move from {start} to {stop}; expected its end to be the start of the move"
        )

    def _up(
        self, field: VelocityField, x: Pair, stop: float, history: History, v: State | None
    ) -> Pair:
        now = x.t_high
        v = field(x.high, now) if v is None else v
        history.push(now, x.high, v, stop)
        span = (stop - now) + self.gamma * (now - x.t_low)
        moved = combine((self.gamma, 1 - self.gamma, span), (x.low, x.high, v))
        return Pair(x.high, moved, now, stop, max(x.growth * self.gamma, 1.0))

    def _down(
        self, field: VelocityField, x: Pair, stop: float, history: History, v: State | None
    ) -> Pair:
        now = x.t_low
        v = field(x.low, now) if v is None else v
        history.push(now, x.low, v, stop)
        span = (x.t_high - now) + self.gamma * (now - stop)
        scale = 1 / self.gamma
        moved = combine((scale, -(1 - self.gamma) * scale, -span * scale), (x.high, x.low, v))
        growth = x.growth * scale
        if growth > _WORST_GROWTH >= x.growth:
            warnings.warn(
                f"inversion with gamma={self.gamma} has amplified rounding errors more than "
                f"{_WORST_GROWTH:.0e} times; use gamma=1 or fewer steps",
                RuntimeWarning,
                stacklevel=2,
            )
        return Pair(moved, x.low, stop, now, growth)

    def __repr__(self) -> str:
        return f"Bidirectional(gamma={self.gamma})"
