"""Solvers of flat spaces on frames: they move translations, a schedule turns the rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rectiflow.solvers import Ancestral, Context, InterpolantSDE, Memory, Move, Solver
from rectiflow.spaces import Euclidean
from rectiflow.states import State
from torch import Tensor

from rectiflow_protein.flow import ExponentialSchedule, RotationSchedule

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_FLAT = Euclidean()


@dataclass(frozen=True)
class FrameSplit(Solver):
    """A multistep method for translations, Euler's with a schedule for rotations; one evaluation.

    Rotations do not add up, so a method that sums velocities of several points moves translations
    alone: Adams, GHVB, BDIA, DDIM and DPM-Solver++ with data of past steps. Rotations go the
    schedule's part of the way, from the same evaluation, as in
    :class:`~rectiflow_protein.flow.FrameEuler`. Its start may take no more evaluations either: a
    method that has one grows its order instead.

    Parameters
    ----------
    solver : Solver
        Evaluates the field once a step, at the start.
    schedule : RotationSchedule
        As in ``FrameEuler``.

    Raises
    ------
    ValueError
        When the solver evaluates elsewhere: velocities at several points belong to several
        rotations.
    """

    solver: Solver
    schedule: RotationSchedule = field(default_factory=ExponentialSchedule)
    nfe = 1
    flat_only = False
    traceable = False

    order = property(lambda self: 1)  # of the rotations
    reads = property(lambda self: self.solver.reads)
    leaves = property(lambda self: self.solver.leaves)

    def __post_init__(self) -> None:
        solver: Any = self.solver
        if getattr(solver, "start", None) is not None:
            solver = replace(solver, start=None)
            object.__setattr__(self, "solver", solver)
        if isinstance(solver, Ancestral | InterpolantSDE):
            raise ValueError(
                f"{solver} draws noise of flat spaces, got frames; expected euler with a "
                "temperature"
            )
        if solver.nfe != 1 or "carried" in solver.reads:
            raise ValueError(
                f"{solver} evaluates between or beyond the ends of a step, where rotations would "
                "have to be added; expected euler, midpoint or fireflow, or a method of one "
                "evaluation at the start: adams, hb, ghvb, ddim, dpmpp-2m, dpmpp-3m, bdia"
            )

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the solver's moves, each with the schedule."""
        return [
            Move(start, stop, FrameSplit(solver, self.schedule))
            for start, stop, solver in self.solver.moves(times)
        ]

    def step(  # type: ignore[override]  # schedules have one clock for all chains
        self, field: VelocityField, x: State, start: float, stop: float, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance translations by the solver and rotations by the schedule's part of the way."""
        x, v = context.begin(field, x, start)
        assert isinstance(x, dict)
        assert isinstance(v, dict)
        trans = v["trans"]

        def known(_: State, t: float | Tensor) -> Tensor:
            assert t == start
            return trans

        alone = context._replace(space=_FLAT, correct=None)
        moved, memory = self.solver.step(known, x["trans"], start, stop, alone)
        turn = v["rot"] * (self.schedule.fraction(start, stop) * (1 - start))
        turned: Any = context.space.move(x, {"trans": 0 * trans, "rot": turn}, 1.0)
        return {"trans": moved, "rot": turned["rot"]}, memory
