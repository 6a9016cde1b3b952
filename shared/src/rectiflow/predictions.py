"""What networks predict about a point between noise and data, and the velocity that follows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.sources import NORMAL, Normal, Prior, Source
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, expand_time, map_state


class Point(NamedTuple):
    """A training point and what it was made of; noise enters it with the factor ``level``."""

    x: State
    velocity: State
    data: State
    noise: State
    level: float | Tensor | None
    t: Tensor


class Bridge(ABC):
    """What connects noise with data: a point for each time, and the velocity there.

    :class:`~rectiflow.paths.Path` is straight in its coefficients,
    :class:`~rectiflow.geodesics.Geodesic` runs on a curved space,
    :class:`~rectiflow.interpolants.Interpolant` adds noise on the way.
    """

    space: Space = Euclidean()

    @property
    def prior(self) -> Source:
        """The noise that belongs to the space: standard normal on a flat one."""
        return NORMAL if isinstance(self.space, Euclidean) else Prior(self.space)

    @abstractmethod
    def points(
        self, x0: State, x1: State, t: Tensor, generator: torch.Generator | None
    ) -> tuple[Point, ...]:
        """Return the points at ``t (b,)``: one, or a pair that shares its randomness."""

    def from_data(self, data: State, x: State, t: float | Tensor) -> State:
        """Return the velocity at ``x`` whose data prediction is ``data``."""
        raise self._undetermined("a data prediction")

    def from_noise(self, noise: State, x: State, t: float | Tensor) -> State:
        """Return the velocity at ``x`` whose noise prediction is ``noise``."""
        raise self._undetermined("a noise prediction")

    def from_score(self, score: State, x: State, t: float | Tensor, source: Normal) -> State:
        """Return the velocity at ``x`` whose score is ``score``."""
        raise self._undetermined("a score")

    def _undetermined(self, given: str) -> ValueError:
        return ValueError(
            f"{given} does not determine the velocity on {self!r}; expected a network that "
            "predicts the velocity"
        )


class Prediction(ABC):
    """What a network is trained to say about ``x_t``."""

    @abstractmethod
    def target(self, point: Point) -> State:
        """Return what the network should have said, on average, at a training point."""

    @abstractmethod
    def velocity(self, value: State, x: State, t: float | Tensor, path: Bridge) -> State:
        """Return the velocity that a prediction at ``x`` means.

        Raises
        ------
        ValueError
            At a time, given as a number, where it does not determine the velocity.
        """


@dataclass(frozen=True)
class Velocity(Prediction):
    """``E[dx_t/dt | x_t]``: rectified flow, flow matching."""

    def target(self, point: Point) -> State:
        """Return the velocity."""
        return point.velocity

    def velocity(self, value: State, x: State, t: float | Tensor, path: Bridge) -> State:
        """Return the prediction itself."""
        return value


@dataclass(frozen=True)
class Data(Prediction):
    """``E[x1 | x_t]``: denoisers. Undetermined velocity at t = 1."""

    def target(self, point: Point) -> State:
        """Return the data."""
        return point.data

    def velocity(self, value: State, x: State, t: float | Tensor, path: Bridge) -> State:
        """Return the velocity towards the predicted data."""
        return path.from_data(value, x, t)


@dataclass(frozen=True)
class Noise(Prediction):
    """``E[x0 | x_t]``: epsilon networks. Undetermined velocity at t = 0.

    On an :class:`~rectiflow.interpolants.Interpolant` it is the denoiser ``E[z | x_t]``.
    """

    def target(self, point: Point) -> State:
        """Return the noise."""
        return point.noise

    def velocity(self, value: State, x: State, t: float | Tensor, path: Bridge) -> State:
        """Return the velocity away from the predicted noise."""
        return path.from_noise(value, x, t)


@dataclass(frozen=True)
class Score(Prediction):
    """``grad log p_t(x_t)``. Undetermined velocity at t = 0.

    Parameters
    ----------
    source : Normal
        Law of the noise, on which the score depends.
    """

    source: Normal = NORMAL

    def target(self, point: Point) -> State:
        """Return the score of the point given its data."""
        level = point.level
        if level is None:
            raise ValueError("no score is known on a curved space; expected to predict Velocity()")
        return map_state(lambda e: self.source.score(e) / expand_time(level, e), point.noise)

    def velocity(self, value: State, x: State, t: float | Tensor, path: Bridge) -> State:
        """Return the velocity away from the noise that has this score."""
        return path.from_score(value, x, t, self.source)
