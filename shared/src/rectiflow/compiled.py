"""Compiled integration: many moves as one graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from rectiflow.solvers.base import Move, Solver
from rectiflow.solvers.context import Context, Memory
from rectiflow.states import State, leaves, map_state

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField

# Regions are told apart by field, solvers and shapes; torch gives up after 8 unless told otherwise.
_MOST_REGIONS = 64

Kept: TypeAlias = dict[str, tuple[State, ...]]
"""The values of a memory without their times, which are the starts of the last moves."""


class Regions:
    """Advances a state by a region of moves at a time, each one graph.

    Parameters
    ----------
    moves : sequence of Move
        The plan, to say which of its solvers cannot be compiled.
    size : int
        Moves of a region.
    """

    def __init__(self, moves: Sequence[Move], size: int) -> None:
        if size < 0:
            raise ValueError(f"compile must not be negative, got {size}; expected moves per region")
        for move in moves:
            if not move.solver.traceable:
                raise ValueError(
                    f"{move.solver} cannot be compiled, got compile={size}; expected a solver that "
                    "is deterministic and not adaptive. Leave out compile, or compile the network: "
                    "torch.compile(model)"
                )
        self.size = size

    def __call__(
        self,
        field: VelocityField,
        x: State,
        moves: Sequence[Move],
        index: int,
        context: Context,
    ) -> tuple[State, int, Context]:
        """Make the moves of the region from ``index``; a turn ends it, for the memory."""
        start, stop, solver = moves[index]
        past = context.past(start, stop)
        if solver.reads and not any(past.values.values()):
            # Nothing to go on from: what this move does with that is for numbers to tell.
            x, memory = solver.step(field, x, start, stop, context)
            return x, index + 1, context._replace(memory=memory)
        last, end = index + 1, min(index + self.size, len(moves))
        forgets = context.reads == {}
        while last < end and (forgets or (moves[last].stop > moves[last].start) == (stop > start)):
            last += 1
        runs = tuple(
            (solver, len(list(run)))
            for solver, run in groupby(moves[index:last], key=lambda move: move.solver)
        )
        earlier = [t for t, _ in max(past.values.values(), key=len, default=())][::-1]
        times = [*earlier, start, *(move.stop for move in moves[index:last])]
        kept = {name: tuple(value for _, value in chain) for name, chain in past.values.items()}
        device = leaves(x)[0].device
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.compiler.cudagraph_mark_step_begin()
        with torch._dynamo.config.patch(recompile_limit=_MOST_REGIONS):
            x, kept = _compile_region(on_gpu)(
                field,
                x,
                torch.tensor(times, dtype=torch.float64, device=device),
                kept,
                runs,
                context._replace(memory=None),
            )
        if on_gpu:  # the next replay of the graph overwrites its outputs
            x = map_state(torch.clone, x)
            kept = {k: tuple(map_state(torch.clone, v) for v in vs) for k, vs in kept.items()}
        memory = _with_times(kept, times[-1], times[-2::-1]) if kept else None
        return x, last, context._replace(memory=memory)


@functools.cache  # only the wrapper, which is slow to make; torch keeps the compiled code
def _compile_region(on_gpu: bool) -> Callable[..., tuple[State, Kept]]:
    if on_gpu:
        return torch.compile(_region, fullgraph=True, dynamic=False, mode="reduce-overhead")
    options: dict[str, Any] = {"cpp_wrapper": True}  # calls kernels without going through Python
    return torch.compile(_region, fullgraph=True, dynamic=False, options=options)


def _region(
    field: VelocityField,
    x: State,
    times: Tensor,
    kept: Kept,
    runs: tuple[tuple[Solver, int], ...],
    context: Context,
) -> tuple[State, Kept]:
    """Unroll consecutive moves, given as solvers and how many moves each takes.

    Compiled once for every such sequence. Counts instead of one entry per move keep short what is
    checked before each call of the compiled code. ``times`` are those of the values kept, oldest
    first, and of the moves.
    """
    moments = times.unbind()
    here = len(moments) - 1 - sum(count for _, count in runs)
    if here:
        context = context._replace(memory=_with_times(kept, moments[here], moments[here - 1 :: -1]))
    for solver, count in runs:
        for _ in range(count):
            start, stop = moments[here], moments[here + 1]
            x, memory = solver.step(field, x, start, stop, context)
            context = context._replace(memory=memory)
            here += 1
    if context.memory is None:
        return x, {}
    values = context.memory.values.items()
    return x, {name: tuple(value for _, value in chain) for name, chain in values}


def _with_times(kept: Kept, stop: Any, starts: Sequence[Any]) -> Memory:
    """Put the times back: every chain begins at the last move."""
    values = {name: tuple(zip(starts, chain, strict=False)) for name, chain in kept.items()}
    return Memory(starts[0], stop, values)
