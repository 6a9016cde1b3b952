"""The loop: a plan of moves, carried out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from rectiflow.grids import check_grid
from rectiflow.solvers.base import History, Move, Solver, is_flat
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, leaves, map_state

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField

After: TypeAlias = Callable[[State, Move, History], State]
"""Changes a state after each move: projection, replacement, recording."""

_FLAT = Euclidean()
# Regions are told apart by field, solvers and shapes; torch gives up after 8 unless told otherwise.
_MOST_REGIONS = 64


@dataclass(frozen=True, slots=True)
class Step:
    """What a callback is shown.

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


def plan(grid: Sequence[float], solver: Solver) -> list[Move]:
    """Lay out a solver along a grid.

    Plans are lists: join them with ``+`` to change the solver, or to go back and forth.

    Parameters
    ----------
    grid : sequence of float
        Two or more times, strictly increasing (towards data) or decreasing (towards noise).
    solver : Solver
        Multistep solvers set their own start and end; see :meth:`Solver.moves`.

    Returns
    -------
    list of Move

    Raises
    ------
    ValueError
        When the grid is not monotone.

    Examples
    --------
    >>> from rectiflow.solvers import Euler, Heun
    >>> plan([0.0, 0.5], Heun()) + plan([0.5, 1.0], Euler())
    [Move(start=0.0, stop=0.5, solver=Heun()), Move(start=0.5, stop=1.0, solver=Euler())]
    """
    check_grid(grid)
    return solver.moves(grid)


def reverse(moves: Sequence[Move]) -> list[Move]:
    """Return the plan that goes back: the same solvers on the reversed moves, which is inversion.

    Examples
    --------
    >>> from rectiflow.solvers import Euler
    >>> reverse(plan([0.0, 0.5, 1.0], Euler()))[0]
    Move(start=1.0, stop=0.5, solver=Euler())
    """
    return [Move(move.stop, move.start, move.solver) for move in reversed(moves)]


def integrate(
    field: VelocityField,
    x: Any,
    moves: Sequence[Move],
    *,
    space: Space = _FLAT,
    after: Sequence[After] = (),
    history: History | None = None,
    callback: Callable[[Step], None] | None = None,
    compile: int = 0,
    differentiable: bool = False,
) -> Any:
    """Carry a state along a plan.

    Parameters
    ----------
    field : VelocityField
        The velocity, ``field(x, t)``.
    x : State
        Where to start; it is left as it is. :class:`~rectiflow.solvers.Bidirectional` also takes
        and returns a :class:`~rectiflow.solvers.Pair`.
    moves : sequence of Move
        The plan. Each move starts where the one before stopped.
    space : Space
        How points move.
    after : sequence of callable
        Called in order after each move as ``f(x, move, history)``; returns the state to go on with.
    history : History, optional
        Memory to use and leave behind, for going on later; a fresh one of the right size otherwise.
    callback : callable, optional
        Shown a :class:`Step` after each move, for progress and recording; in compiled integration
        after each region.
    compile : int, default 0
        Run the plan in regions of this many moves, each one graph of ``torch.compile`` (CUDA graphs
        on a GPU); 0 runs it as it is. Worth it for small networks, where starting kernels costs
        more than running them. The field must be traceable and take tensor times, and the solvers
        must be Runge-Kutta methods. Times are inputs of a region, so that equal regions, and later
        calls with other grids, share one compilation; the first takes a minute or so on a CPU.
    differentiable : bool, default False
        Keep the graph for gradients. By default nothing is recorded, whatever requires a gradient;
        guides that need one enable it for themselves.

    Returns
    -------
    State
        The state at the end of the plan, in the dtype of ``x``.

    Raises
    ------
    ValueError
        When the plan is empty or has a gap; when a solver that adds velocities of different points
        meets a curved space; when the field changes the dtype of the state; when ``compile`` meets
        a solver or a hook that cannot be compiled.

    Examples
    --------
    >>> import torch
    >>> from rectiflow.grids import uniform
    >>> from rectiflow.solvers import RK4
    >>> x = integrate(lambda x, t: x, torch.ones(1), plan(uniform(10), RK4()))
    >>> round(x.item(), 4)
    2.7183
    """
    memory = _check_plan(moves, space)
    if history is None:
        history = History(max(memory, 1) if after or callback else memory)
    with torch.set_grad_enabled(differentiable and torch.is_grad_enabled()):
        if compile:
            return _compiled(field, x, moves, space, after, callback, compile)
        if not after and callback is None:
            return _plain(field, x, moves, space, history)
        return _observed(field, x, moves, space, history, after, callback)


def _plain(
    field: VelocityField, x: Any, moves: Sequence[Move], space: Space, history: History
) -> Any:
    begin, (start, stop, solver) = x, moves[0]
    x = solver.step(field, x, start, stop, history, space)
    _check_dtype(begin, x)
    for start, stop, solver in moves[1:]:
        x = solver.step(field, x, start, stop, history, space)
    return x


def _observed(
    field: VelocityField,
    x: Any,
    moves: Sequence[Move],
    space: Space,
    history: History,
    after: Sequence[After],
    callback: Callable[[Step], None] | None,
) -> Any:
    begin = x
    for index, move in enumerate(moves):
        start, stop, solver = move
        x = solver.step(field, x, start, stop, history, space)
        for change in after:
            x = change(x, move, history)
        if index == 0:
            _check_dtype(begin, x)
        if callback is not None:
            known = len(history) > 0 and history[-1].stop == stop and history[-1].t == start
            callback(Step(index, len(moves), start, stop, x, history[-1].v if known else None))
    return x


def _compiled(
    field: VelocityField,
    x: State,
    moves: Sequence[Move],
    space: Space,
    after: Sequence[After],
    callback: Callable[[Step], None] | None,
    size: int,
) -> State:
    _check_compilable(moves, after, size)
    begin = x
    device = leaves(x)[0].device
    times = torch.tensor(
        [moves[0].start, *(move.stop for move in moves)], dtype=torch.float64, device=device
    )
    on_gpu = device.type == "cuda"
    region = _compile_region(on_gpu)
    with torch._dynamo.config.patch(recompile_limit=_MOST_REGIONS):
        for first in range(0, len(moves), size):
            last = min(first + size, len(moves))
            runs = tuple(
                (solver, len(list(run)))
                for solver, run in groupby(moves[first:last], key=lambda move: move.solver)
            )
            if on_gpu:
                torch.compiler.cudagraph_mark_step_begin()
            x = region(field, x, times[first : last + 1], runs, space)
            if on_gpu:  # the next replay of the graph overwrites its output
                x = map_state(torch.clone, x)
            if first == 0:
                _check_dtype(begin, x)
            if callback is not None:
                start, stop = moves[first].start, moves[last - 1].stop
                callback(Step(last - 1, len(moves), start, stop, x, None))
    return x


@functools.cache  # only the wrapper, which is slow to make; torch keeps the compiled code
def _compile_region(on_gpu: bool) -> Callable[..., State]:
    if on_gpu:
        return torch.compile(_region, fullgraph=True, dynamic=False, mode="reduce-overhead")
    options: dict[str, Any] = {"cpp_wrapper": True}  # calls kernels without going through Python
    return torch.compile(_region, fullgraph=True, dynamic=False, options=options)


def _region(
    field: VelocityField,
    x: State,
    times: Tensor,
    runs: tuple[tuple[Solver, int], ...],
    space: Space,
) -> State:
    """Unroll consecutive moves, given as solvers and how many moves each takes.

    Compiled once for every such sequence. Counts instead of one entry per move keep short what is
    checked before each call of the compiled code.
    """
    history, moments, here = History(0), times.unbind(), 0
    for solver, count in runs:
        for _ in range(count):
            start, stop = moments[here], moments[here + 1]
            x = solver.step(field, x, start, stop, history, space)  # type: ignore[arg-type]
            here += 1
    return x


def _check_plan(moves: Sequence[Move], space: Space) -> int:
    """Validate a plan and return the memory that it needs."""
    if not moves:
        raise ValueError("the plan is empty, got no moves; expected at least one. See plan()")
    here, solver, memory = moves[0].start, None, 0
    for move in moves:
        if move.start != here:
            raise ValueError(
                f"the plan has a gap, got a move from {move.start} after one to {here}; expected "
                "each move to start where the one before stopped"
            )
        here = move.stop
        if move.solver is not solver:
            solver = move.solver
            memory = max(memory, solver.memory)
            if solver.flat_only and not is_flat(space):
                raise ValueError(
                    f"{solver} adds velocities of different points, got the curved space "
                    f"{type(space).__name__}; expected a flat one. Use Euler() or Midpoint()"
                )
    return memory


def _check_dtype(before: Any, after: Any) -> None:
    if not isinstance(after, torch.Tensor | dict):
        before, after = after.high, after.low  # a pair: one of the two is the state before
    for a, b in zip(leaves(before), leaves(after), strict=True):
        if a.dtype != b.dtype:
            raise ValueError(
                f"the velocity changed the dtype of the state, got {a.dtype} before and {b.dtype} "
                "after; expected a velocity of the state's dtype. Convert the state first, for "
                f"example x.to({b.dtype}), or the output of the field"
            )


def _check_compilable(moves: Sequence[Move], after: Sequence[After], size: int) -> None:
    if size < 0:
        raise ValueError(f"compile must not be negative, got {size}; expected moves per region")
    if after:
        raise ValueError(
            f"hooks between moves cannot be compiled, got after={list(after)}; expected none. "
            "Leave out compile, or compile the network: torch.compile(model)"
        )
    for move in moves:
        if not move.solver.takes_tensor_times:
            raise ValueError(
                f"{move.solver} cannot be compiled with times as inputs, got compile={size}; "
                "expected Runge-Kutta solvers. Leave out compile, or compile the network: "
                "torch.compile(model)"
            )
