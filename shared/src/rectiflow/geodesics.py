"""Geodesics from noise to data on a curved space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.predictions import Bridge, Point
from rectiflow.spaces import Space
from rectiflow.states import State, expand_time, map_state


@dataclass(frozen=True)
class Geodesic(Bridge):
    """Shortest paths at constant speed, ``x_t = exp_x0(t log_x0(x1))``.

    The velocity of a geodesic in its own moving frame does not depend on t: it is ``log(x0, x1)``.

    Parameters
    ----------
    space : Space
        Where the states live; solvers need it too.

    Examples
    --------
    >>> from rectiflow.spaces import Rotations
    >>> path = Geodesic(Rotations())
    >>> q = path.space.prior((2,), generator=torch.Generator().manual_seed(0))
    >>> path.data(torch.zeros(2, 3), q, 0.5).equal(q)  # at rest
    True
    """

    space: Space

    def points(
        self, x0: State, x1: State, t: Tensor, generator: torch.Generator | None
    ) -> tuple[Point, ...]:
        """Return the one point at ``t``; nothing is drawn."""
        x, velocity = self.space.geodesic(x0, x1, t), self.space.log(x0, x1)
        return (Point(x, velocity, x1, x0, None, t),)

    def data(self, v: State, x: State, t: float | Tensor) -> State:
        """Return where the geodesic through ``x`` ends at t = 1."""
        return self.space.move(x, v, 1 - t)

    def noise(self, v: State, x: State, t: float | Tensor) -> State:
        """Return where the geodesic through ``x`` began at t = 0."""
        return self.space.move(x, v, -t)

    def from_data(self, data: State, x: State, t: float | Tensor) -> State:
        """Return ``log(x, D) / (1 - t)``; singular at t = 1."""
        return _over(self.space.log(x, data), 1 - t)

    def from_noise(self, noise: State, x: State, t: float | Tensor) -> State:
        """Return ``-log(x, E) / t``; singular at t = 0."""
        return _over(self.space.log(x, noise), -t)


def _over(v: State, t: float | Tensor) -> State:
    return map_state(lambda part: part / expand_time(t, part), v)
