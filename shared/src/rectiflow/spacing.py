"""How to space the times of a run, as a value: called with a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rectiflow.grids import exponential, karras, log_snr, quadratic, shifted, uniform
from rectiflow.solvers.base import Move, Solver
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

Spacing: TypeAlias = Callable[[int], Sequence[float]]
"""Makes the times of a run from its number of steps, from 0 at the noise to 1 at the data."""


@dataclass(frozen=True)
class Spaced:
    """A grid of :mod:`rectiflow.grids` from 0 to 1.

    Grids in the log-SNR begin and end strictly inside, where it is finite; their first and last
    times are moved to the ends, so that noise is taken as noise and what comes out is data.

    Parameters
    ----------
    make : callable
        ``make(steps, *given)``.
    given : tuple of float
        What follows the steps.

    Examples
    --------
    >>> Spaced(shifted, (3.0,))(2)
    [0.0, 0.25, 1.0]
    >>> [round(t, 3) for t in Spaced(log_snr, (0.01, 0.99))(4)]
    [0.0, 0.091, 0.5, 0.909, 1.0]
    """

    make: Callable[..., Sequence[float]] = uniform
    given: tuple[float, ...] = ()

    def __call__(self, steps: int) -> list[float]:
        """Return ``steps + 1`` times."""
        return [0.0, *self.make(steps, *self.given)[1:-1], 1.0]

    def __repr__(self) -> str:
        return f"{self.make.__name__}({', '.join(f'{value:g}' for value in self.given)})"


GRIDS: dict[str, tuple[Callable[..., Sequence[float]], dict[str, float]]] = {
    "uniform": (uniform, {}),
    "shifted": (shifted, {"shift": 3.0}),
    "log-snr": (log_snr, {"t_min": 0.01, "t_max": 0.99}),
    "karras": (karras, {"sigma_min": 0.01, "sigma_max": 100.0, "rho": 7.0}),
    "exponential": (exponential, {"sigma_min": 0.01, "sigma_max": 100.0}),
    "quadratic": (quadratic, {}),
}
"""By name, with the parameters that follow the steps and what they are if not given."""


def stretched(times: Sequence[float], start: float, stop: float) -> list[float]:
    """Lay times from 0 to 1 between other ends, which are met exactly.

    Examples
    --------
    >>> stretched([0.0, 0.5, 1.0], 0.5, 1.0)
    [0.5, 0.75, 1.0]
    """
    return [start, *(start + (stop - start) * t for t in times[1:-1]), stop]


@dataclass(frozen=True)
class OnGrid(Solver):
    """A solver that brings its own spacing: of a grid it is laid along, only ends and steps count.

    Parameters
    ----------
    solver : Solver
    grid : Spacing

    Examples
    --------
    >>> from rectiflow.integrate import plan
    >>> from rectiflow.solvers import Euler
    >>> [move.stop for move in plan([0.0, 0.5, 1.0], OnGrid(Euler(), Spaced(shifted, (3.0,))))]
    [0.25, 1.0]
    """

    solver: Solver
    grid: Spacing

    order = property(lambda self: self.solver.order)
    nfe = property(lambda self: self.solver.nfe)
    flat_only = property(lambda self: self.solver.flat_only)
    traceable = property(lambda self: self.solver.traceable)
    reads = property(lambda self: self.solver.reads)
    leaves = property(lambda self: self.solver.leaves)

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the solver's moves along the spacing, between the same ends."""
        spaced = self.grid(len(times) - 1)
        return self.solver.moves(stretched(spaced, times[0], times[-1]))

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Make a move of the solver; see :meth:`Solver.step`."""
        return self.solver.step(field, x, start, stop, context)
