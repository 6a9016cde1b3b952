"""The loop: a plan of moves, carried out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from rectiflow.plans import Plan, plan, reverse
from rectiflow.solvers.context import Context, Memory
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, check_like, leaves

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.randomness import KeyedNoise
    from rectiflow.solvers.base import Move

__all__ = ["Hook", "Moved", "integrate", "plan", "reverse"]

_FLAT = Euclidean()


@dataclass(frozen=True, slots=True)
class Moved:
    """What a hook is shown.

    Attributes
    ----------
    index : int
        Number of the move, from 0; in compiled integration, of the region's last move.
    count : int
        Moves in the plan.
    start, stop : float
        Times where it began and ended.
    state : State
        The state at ``stop``.
    velocity : State or None
        The velocity at ``start``, where the solver evaluated it.
    """

    index: int
    count: int
    start: float
    stop: float
    state: State
    velocity: State | None


Hook: TypeAlias = Callable[[Moved], State | None]
"""Called after each move; returns None to go on, or another state to go on from."""


def integrate(
    field: VelocityField,
    x: State,
    plan: Plan,
    *,
    space: Space = _FLAT,
    noise: KeyedNoise | None = None,
    memory: Memory | None = None,
    hook: Hook | None = None,
    compile: int = 0,
    differentiable: bool = False,
    return_memory: bool = False,
) -> Any:
    """Carry a state along a plan.

    Parameters
    ----------
    field : VelocityField
        The velocity, ``field(x, t)``.
    x : State
        Where to start; it is left as it is.
    plan : Plan
        The moves to make; see :func:`plan`.
    space : Space
        How points move.
    noise : KeyedNoise, optional
        What stochastic solvers draw; see :class:`~rectiflow.randomness.KeyedNoise`.
    memory : Memory, optional
        What an earlier run handed out, to go on from where it stopped, or to undo it exactly
        (:class:`~rectiflow.solvers.BDIA`).
    hook : callable, optional
        Called after each move with a :class:`Moved`, for progress, recording, projection and
        replacement; in compiled integration after each region. Where it returns a state the run
        goes on from that one, exactly as a run that starts there with the rest of the plan.
    compile : int, default 0
        Run the plan in regions of this many moves, each one graph of ``torch.compile`` (CUDA graphs
        on a GPU); 0 runs it as it is. Worth it for small networks, where starting kernels costs
        more than running them. The field must be traceable and take tensor times; every solver
        whose program does not depend on numbers can be compiled. Times are inputs of a region, so
        that equal regions, and later calls with other grids, share one compilation; the first takes
        a minute or so on a CPU.
    differentiable : bool, default False
        Keep the graph for gradients. By default nothing is recorded, whatever requires a gradient;
        guides that need one enable it for themselves.
    return_memory : bool, default False
        Return the memory with the state.

    Returns
    -------
    State, or (State, Memory)
        The state at the end of the plan, in the dtype of ``x``.

    Raises
    ------
    ValueError
        When a solver that adds velocities of different points meets a curved space; when a velocity
        has not the shape of a state on a flat space, or changes its dtype; when a solver needs
        noise or a memory that it does not get; when ``compile`` meets a solver that cannot be
        compiled.
    TypeError
        When the plan is no :class:`Plan`, or a hook returns no state.

    Examples
    --------
    >>> import torch
    >>> from rectiflow.grids import uniform
    >>> from rectiflow.solvers import RK4
    >>> x = integrate(lambda x, t: x, torch.ones(1), plan(uniform(10), RK4()))
    >>> round(x.item(), 4)
    2.7183
    """
    if not isinstance(plan, Plan):
        raise TypeError(
            f"integrate takes a plan, got {type(plan).__name__}; expected plan(grid, solver)"
        )
    moves: Sequence[Move] = plan.moves
    reads = _checked(moves, space)
    if hook is not None:
        reads["velocity"] = max(reads.get("velocity", 0), 1)
    context = Context(space, noise, memory, None if return_memory else reads)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        if compile:
            from rectiflow.compiled import Regions

            advance: Any = Regions(moves, compile)
        else:
            advance = _one
        begin, index, count = x, 0, len(moves)
        while index < count:
            first = index
            asked = field if first or compile or not space.is_flat else _same_shape(field)
            x, index, context = advance(asked, x, moves, index, context)
            if first == 0:
                _check_dtype(begin, x)
            if hook is not None:
                start, stop = moves[first].start, moves[index - 1].stop
                known = () if context.memory is None else context.memory.get("velocity")
                velocity = known[0][1] if known and known[0][0] == start else None
                changed = hook(Moved(index - 1, count, start, stop, x, velocity))
                if changed is not None:
                    if not isinstance(changed, torch.Tensor | dict):
                        raise TypeError(
                            f"a hook returns None or a state to go on from, got {changed!r}"
                        )
                    x, context = changed, context._replace(memory=None)
                    moves = (*moves[:index], *plan.after(index))
    return (x, context.memory) if return_memory else x


def _one(
    field: VelocityField, x: State, moves: Sequence[Move], index: int, context: Context
) -> tuple[State, int, Context]:
    """Make one move."""
    start, stop, solver = moves[index]
    x, memory = solver.step(field, x, start, stop, context)
    space, noise, _, reads, correct = context
    if noise is not None or memory is not context.memory:
        context = Context(space, noise and noise.later(1), memory, reads, correct)
    return x, index + 1, context


def _checked(moves: Sequence[Move], space: Space) -> dict[str, int]:
    """Return which values of the memory the solvers read, or say which cannot move here."""
    reads: dict[str, int] = {}
    seen: Any = None
    for _, _, solver in moves:
        if solver is seen:
            continue
        seen = solver
        if solver.flat_only and not space.is_flat:
            raise ValueError(
                f"{solver} adds velocities of different points, got the curved space "
                f"{type(space).__name__}; expected a flat one. Use Euler() or Midpoint()"
            )
        for name, count in solver.reads.items():
            reads[name] = max(reads.get(name, 0), count)
    return reads


def _same_shape(field: VelocityField) -> VelocityField:
    """Watch a field in the first move: a velocity that broadcasts would be taken silently."""

    def watched(x: State, *times: Any) -> State:  # a network of maps is told two
        v = field(x, *times)
        check_like(v, x, "the velocity")
        return v

    return watched


def _check_dtype(before: State, after: State) -> None:
    for a, b in zip(leaves(before), leaves(after), strict=True):
        if a.dtype != b.dtype:
            raise ValueError(
                f"the velocity changed the dtype of the state, got {a.dtype} before and {b.dtype} "
                "after; expected a velocity of the state's dtype. Convert the state first, for "
                f"example x.to({b.dtype}), or the output of the field"
            )
