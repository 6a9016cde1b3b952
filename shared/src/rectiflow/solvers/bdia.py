"""BDIA: a two-state recursion that can be undone exactly."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.solvers.base import Move, Solver, combine
from rectiflow.solvers.context import Context, Memory, Time, has
from rectiflow.states import State, select, settle

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_WORST_GROWTH = 1e6  # rounding errors of float64 stay below 1e-9 up to here


@dataclass(frozen=True)
class BDIA(Solver):
    r"""Bidirectional integration approximation with Euler increments; exactly invertible.

    .. math:: x_{n+1} = \gamma x_{n-1} + (1 - \gamma) x_n + (h_n + \gamma h_{n-1})\, v(x_n, t_n)

    and the same equation solved for :math:`x_{n-1}` going down. The state before, :math:`x_{n-1}`,
    is its memory. Sampling begins with an Euler step. To undo a run exactly, go back with the
    memory that it handed out; without one there is nothing to be exact about, and going down
    raises. To invert data, which have no such memory, begin with a move of :class:`Euler`, and keep
    the memory at the end.

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
        When ``gamma`` is outside ``(0, 1]``; when it goes down without a memory.

    References
    ----------
    Zhang et al., "Exact Diffusion Inversion via Bi-directional Integration Approximation"
    (ECCV 2024), Eq. (12) in flow form.

    Examples
    --------
    >>> import torch
    >>> from rectiflow.grids import uniform
    >>> from rectiflow.integrate import integrate, plan, reverse
    >>> sampling = plan(uniform(8), BDIA())
    >>> x0 = torch.ones(1, 1, dtype=torch.float64)
    >>> x1, memory = integrate(lambda x, t: -x, x0, sampling, return_memory=True)
    >>> back = integrate(lambda x, t: -x, x1, reverse(sampling), memory=memory)
    >>> bool((back - x0).abs() < 1e-14)
    True
    """

    gamma: float = 1.0
    nfe = 1
    order = property(lambda self: 2 if self.gamma == 1.0 else 1)  # 2 is the leapfrog
    reads = {"state": 1}  # noqa: RUF012
    leaves = ("state", "velocity")

    def __post_init__(self) -> None:
        if not 0.0 < self.gamma <= 1.0:
            raise ValueError(f"gamma must be in (0, 1], got {self.gamma}; expected 1 for inversion")

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the moves, with a warning where inversion would lose its digits."""
        moves = super().moves(times)
        if times[0] > times[-1] and self.gamma ** -len(moves) > _WORST_GROWTH:
            warnings.warn(
                f"inversion with gamma={self.gamma} amplifies rounding errors more than "
                f"{_WORST_GROWTH:.0e} times in {len(moves)} steps; use gamma=1 or fewer steps",
                RuntimeWarning,
                stacklevel=2,
            )
        return moves

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        memory, h = context.memory, stop - start
        turned: bool | Tensor = False
        if memory is not None and memory.get("state") and not torch.compiler.is_compiling():
            turned = settle((memory.start == stop) & (memory.stop == start))
        if memory is not None and turned is True:
            # Back to the state before, which is known.
            return memory.get("state")[0][1], context.remember(start, stop, state=x)
        t, before = context.past(start, stop).newest("state", x)
        known = has(t)
        _check_memory(stop < start, known, turned)
        begin, v = context.begin(field, x, start)
        weight = select(known, select(stop > start, self.gamma, 1 / self.gamma), 0.0)
        span = h + weight * select(known, start - t, 0.0)
        moved = combine((weight, 1.0 - weight, span), (before, begin, v))
        if begin is not x:  # a correction moves the trajectory, the state before included
            moved = combine((1.0, weight, -weight), (moved, begin, x))
        if memory is not None and turned is not False:
            moved = select(turned, memory.get("state")[0][1], moved)
        return moved, context.remember(start, stop, state=begin, velocity=v)


def _check_memory(down: bool | Tensor, known: bool | Tensor, turned: bool | Tensor) -> None:
    """Refuse to go down without the state before; times on a device are not looked at."""
    if isinstance(down, Tensor):
        if torch.compiler.is_compiling() or down.device.type != "cpu":
            return
        down = bool((down & ~torch.as_tensor(known) & ~torch.as_tensor(turned)).any())
    elif known is not False:
        return
    if down:
        raise ValueError(
            "BDIA inverts exactly only with the memory of a run, got none; expected "
            "integrate(..., memory=memory), or a first move of Euler() to invert data"
        )
