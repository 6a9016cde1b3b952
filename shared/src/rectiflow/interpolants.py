"""Stochastic interpolants: paths with noise on the way, between any two laws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.conversions import divide
from rectiflow.paths import Linear, Path
from rectiflow.predictions import Bridge, Point
from rectiflow.states import State, combine, expand_time, map_state


class Level(NamedTuple):
    """A noise level ``g``, its rate, and their product, which is finite where the rate is not."""

    g: Any
    dg: Any
    g_dg: Any


class Gamma(ABC):
    """The factor ``g(t)`` of the noise on the way; zero at both ends."""

    def __call__(self, t: float | Tensor) -> Level:
        """Return the level at ``t``."""
        return self._at(t, torch if isinstance(t, Tensor) else math)

    @abstractmethod
    def _at(self, t: Any, ops: ModuleType) -> Level:
        """Compute the level with the functions of ``ops``: ``math`` or ``torch``."""


@dataclass(frozen=True)
class Brownian(Gamma):
    """``g = sqrt(scale t (1 - t))``, the width of a Brownian bridge; its rate diverges at the ends.

    Parameters
    ----------
    scale : float, default 1
    """

    scale: float = 1.0

    def _at(self, t: Any, ops: ModuleType) -> Level:
        g, g_dg = ops.sqrt(self.scale * t * (1 - t)), self.scale * (1 - 2 * t) / 2
        return Level(g, divide(g_dg, g), g_dg)


@dataclass(frozen=True)
class Quadratic(Gamma):
    """``g = scale t (1 - t)``."""

    scale: float = 1.0

    def _at(self, t: Any, ops: ModuleType) -> Level:
        g, dg = self.scale * t * (1 - t), self.scale * (1 - 2 * t)
        return Level(g, dg, g * dg)


@dataclass(frozen=True)
class SineSquared(Gamma):
    """``g = scale sin²(pi t)``."""

    scale: float = 1.0

    def _at(self, t: Any, ops: ModuleType) -> Level:
        g = self.scale * ops.sin(math.pi * t) ** 2
        dg = self.scale * math.pi * ops.sin(2 * math.pi * t)
        return Level(g, dg, g * dg)


@dataclass(frozen=True)
class Interpolant(Bridge):
    r"""``x_t = a x1 + b x0 + g z`` with standard normal z: both ends may be data.

    Two fields belong to it: the velocity :math:`b(x, t) = E[\dot x_t | x_t]`, whose ODE carries x0
    to x1, and the denoiser :math:`\eta(x, t) = E[z | x_t]`, which gives the score and with it SDEs
    of the same marginals. ``Flow(path=Interpolant(), prediction=Velocity())`` trains the one,
    ``prediction=Noise()`` the other. Training points come as the antithetic pair
    :math:`x_t^\pm = a x_1 + b x_0 \pm g z`: the variance of :math:`\dot g z`, infinite at the ends
    for :class:`Brownian`, then cancels in the gradient.

    Parameters
    ----------
    path : Path, default :class:`~rectiflow.paths.Linear`
        The coefficients a and b.
    gamma : Gamma, default :class:`Brownian`

    Notes
    -----
    The paper calls the coefficient of x0 alpha. Its official code trains ``-E[z | x_t]``.

    References
    ----------
    Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and
    Diffusions" (arXiv 2303.08797), sections 2 and 6.
    """

    path: Path = field(default_factory=Linear)
    gamma: Gamma = field(default_factory=Brownian)

    def interpolate(self, x0: State, x1: State, z: State, t: float | Tensor) -> tuple[State, State]:
        """Return the point ``x_t`` and its velocity ``a' x1 + b' x0 + g' z``."""
        x, v = self.path.interpolate(x0, x1, t)
        level = self.gamma(t)
        return combine((1.0, level.g), (x, z)), combine((1.0, level.dg), (v, z))

    def points(
        self, x0: State, x1: State, t: Tensor, generator: torch.Generator | None
    ) -> tuple[Point, ...]:
        """Return the antithetic pair at ``t``; z is drawn."""
        z = self.prior.sample_like(x1, generator=generator)
        g = self.gamma(t).g

        def point(z: State) -> Point:
            return Point(*self.interpolate(x0, x1, z, t), x1, z, g, t)

        return point(z), point(map_state(torch.neg, z))

    def score(self, noise: State, t: float | Tensor) -> State:
        """Return ``grad log p_t = -E[z | x_t] / g`` from the denoiser; infinite at the ends."""
        g = self.gamma(t).g
        return map_state(lambda e: -e / expand_time(g, e), noise)

    def velocity(self, drift: State, noise: State, t: float | Tensor) -> State:
        """Return ``E[dx_t/dt]`` from ``E[a' x1 + b' x0]`` and the denoiser: drift + g' noise."""
        return combine((1.0, self.gamma(t).dg), (drift, noise))
