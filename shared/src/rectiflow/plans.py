"""Plans: which moves to make, laid out before any is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rectiflow.grids import check_grid

if TYPE_CHECKING:
    from rectiflow.solvers.base import Move, Solver

_TOLERANCE = 1e-6  # of a join, in time; float32 rounds the times of a grid by less


@dataclass(frozen=True)
class Segment:
    """A solver along a grid.

    Parameters
    ----------
    times : sequence of float
        Two or more, strictly increasing (towards data) or decreasing (towards noise). Tensors and
        arrays become numbers.
    solver : Solver
    """

    times: tuple[float, ...]
    solver: Solver

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(map(float, self.times)))
        check_grid(self.times)


@dataclass(frozen=True)
class Plan:
    """Segments one after the other; :func:`plan` makes one, ``+`` joins them.

    A plan may turn and mix solvers. It is the sequence of its moves: ``len``, iteration, and
    slices, which are plans of the same moves.

    Parameters
    ----------
    segments : sequence of Segment
        Each starts where the one before stopped.

    Raises
    ------
    ValueError
        When there are none, or there is a gap.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("the plan is empty, got no segments; expected at least one move")
        joined = [self.segments[0]]
        for segment in self.segments[1:]:
            here, start = joined[-1].times[-1], segment.times[0]
            if abs(start - here) > _TOLERANCE:
                raise ValueError(
                    f"the plan has a gap, got a move from {start} after one to {here}; expected "
                    "each move to start where the one before stopped"
                )
            joined.append(Segment((here, *segment.times[1:]), segment.solver))
        object.__setattr__(self, "segments", tuple(joined))

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """The moves, as the solvers lay them out."""
        return tuple(m for segment in self.segments for m in segment.solver.moves(segment.times))

    @property
    def nfe(self) -> int:
        """Velocity evaluations of a run, from no memory."""
        total, before = 0, None
        known: dict[str, int] = {}
        for move in self.moves:
            if before is not None and (move.stop > move.start) != (before.stop > before.start):
                known = {}
            total += move.solver.cost(move.start, move.stop, known)
            known = {name: known.get(name, 0) + 1 for name in move.solver.leaves}
            before = move
        return total

    def after(self, count: int) -> tuple[Move, ...]:
        """Return the moves that remain after the first ``count``, laid out anew from there."""
        remaining: list[Move] = []
        for segment in self.segments:
            steps = len(segment.times) - 1
            if count < steps:
                remaining += segment.solver.moves(segment.times[max(count, 0) :])
            count -= steps
        return tuple(remaining)

    def __len__(self) -> int:
        return len(self.moves)

    def __iter__(self) -> Iterator[Move]:
        return iter(self.moves)

    def __getitem__(self, index: int | slice) -> Any:
        return _of(self.moves[index]) if isinstance(index, slice) else self.moves[index]

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.segments + other.segments)


def plan(grid: Iterable[float], solver: Solver) -> Plan:
    """Lay out a solver along a grid.

    Parameters
    ----------
    grid : iterable of float
        Two or more times, strictly increasing (towards data) or decreasing (towards noise): a list,
        a tensor, an array. They become numbers.
    solver : Solver
        Multistep solvers set their own start and end; see :meth:`Solver.moves`.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        When the grid is not monotone.

    Examples
    --------
    >>> from rectiflow.solvers import Euler, Heun
    >>> both = plan([0.0, 0.5], Heun()) + plan([0.5, 1.0], Euler())
    >>> list(both)
    [Move(start=0.0, stop=0.5, solver=Heun()), Move(start=0.5, stop=1.0, solver=Euler())]
    >>> len(both), both.nfe
    (2, 3)
    """
    return Plan((Segment(tuple(grid), solver),))


def reverse(plan: Plan) -> Plan:
    """Return the plan that goes back, which is inversion: the solvers planned along reversed grids.

    Examples
    --------
    >>> from rectiflow.solvers import Euler
    >>> reverse(plan([0.0, 0.5, 1.0], Euler()))
    Plan(segments=(Segment(times=(1.0, 0.5, 0.0), solver=Euler()),))
    """
    return Plan(tuple(Segment(s.times[::-1], s.solver) for s in reversed(plan.segments)))


def _of(moves: Sequence[Move]) -> Plan:
    """Make a plan of moves that are laid out already."""
    segments = []
    for _, run in groupby(moves, key=lambda move: (move.solver, move.stop > move.start)):
        first, *rest = run
        times = (first.start, first.stop, *(move.stop for move in rest))
        segments.append(Segment(times, first.solver))
    return Plan(tuple(segments))
