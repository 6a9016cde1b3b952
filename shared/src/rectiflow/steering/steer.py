"""A solver whose moves begin with a correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.solvers.base import Move, Solver
from rectiflow.solvers.context import Context, Correction, Memory, Time
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField


@dataclass(frozen=True)
class Steer(Solver):
    """A solver with a correction at the start of each move, at the solver's own cost.

    The correction sees the velocity that the solver begins with, evaluated or carried over, so it
    knows the data prediction ``x + (1 - t) v`` without an evaluation of its own; it returns the
    state and the velocity to go on with. Later stages of the move see the plain field. A change of
    the velocity at every stage is a guide; see :mod:`rectiflow.guidance`.

    Parameters
    ----------
    solver : Solver
        Any solver.
    correct : callable
        ``correct(x, t, v) -> (x, v)``, of states; ``t`` is the start of the move.

    Raises
    ------
    TypeError
        When the solver does not begin its moves with :meth:`Context.begin`.

    Examples
    --------
    >>> import torch
    >>> from rectiflow import FireFlow, integrate, plan
    >>> def to_three(x, t, v):  # half of the way from the data prediction to 3
    ...     return x + 0.5 * (3.0 - (x + (1 - t) * v)), v
    >>> steps = plan([0.0, 0.5, 1.0], Steer(FireFlow(), to_three))
    >>> integrate(lambda x, t: 0 * x, torch.zeros(1, 1), steps)
    tensor([[2.2500]])
    """

    solver: Solver
    correct: Correction

    order = property(lambda self: self.solver.order)
    nfe = property(lambda self: self.solver.nfe)
    flat_only = property(lambda self: self.solver.flat_only)
    traceable = property(lambda self: self.solver.traceable)
    reads = property(lambda self: self.solver.reads)
    leaves = property(lambda self: self.solver.leaves)

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """Return the solver's."""
        return self.solver.cost(start, stop, known)

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the solver's moves, each steered."""
        return [
            Move(start, stop, Steer(solver, self.correct))
            for start, stop, solver in self.solver.moves(times)
        ]

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move of the solver, corrected; see :meth:`Solver.step`."""
        calls = []

        def correct(x: State, t: Time, v: State) -> tuple[State, State]:
            calls.append(t)
            x, v = (x, v) if context.correct is None else context.correct(x, t, v)
            return self.correct(x, t, v)

        moved = self.solver.step(field, x, start, stop, context._replace(correct=correct))
        if not calls:
            raise TypeError(
                f"{self.solver} was not steered, got a move that does not begin with "
                "context.begin(field, x, start); expected one that does"
            )
        return moved
