"""Slices from few views: by filtering, by total variation, and by a flow as prior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse import Measurement, TotalVariation
from rectiflow.solvers import Euler
from rectiflow.steering import Steer
from torch import Tensor

from rectiflow_imaging.operators import ParallelBeam

Field = Callable[[Tensor, Tensor], Tensor]


class Reconstruction(ABC):
    """A way from a sinogram ``(z, 1, views, s)`` to slices ``(z, 1, s, s)``, both for [0, 1]."""

    needs_prior: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor
    ) -> Tensor:
        """Return the slices; ``noise`` is where a flow starts."""


@dataclass(frozen=True)
class Filtered(Reconstruction):
    """Filtered back-projection."""

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor
    ) -> Tensor:
        """Return the slices; see :class:`Reconstruction`."""
        return beam.filtered(sinogram)


@dataclass(frozen=True)
class Smooth(Reconstruction):
    """The least total variation within each slice, by the alternating directions.

    Parameters
    ----------
    lam, rho, inner
        As for :class:`rectiflow.inverse.TotalVariation`.
    iterations : int
    """

    lam: float = 0.05
    rho: float = 10.0
    inner: int = 4
    iterations: int = 150

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor
    ) -> Tensor:
        """Return the slices; see :class:`Reconstruction`."""
        told = (2, 3), self.lam, self.rho, self.inner, False
        least = TotalVariation(Measurement(beam, sinogram), *told)
        return least.solve(beam.filtered(sinogram), self.iterations).x


@dataclass(frozen=True)
class ByPrior(Reconstruction):
    """A flow of slices, corrected toward the sinogram in each step.

    Parameters
    ----------
    steps : int
        Evaluations of the network.
    lam : float
        Weight of the variation between neighbouring slices (DiffusionMBIR); with 0 each slice is
        by itself.
    rho, inner
        As for :class:`rectiflow.inverse.TotalVariation`.
    """

    steps: int = 40
    lam: float = 0.0
    rho: float = 10.0
    inner: int = 8
    needs_prior: ClassVar[bool] = True

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor
    ) -> Tensor:
        """Return the slices; see :class:`Reconstruction`."""
        if prior is None:
            raise ValueError(f"{type(self).__name__} needs a trained prior, got none.")
        # The prior's images span [-1, 1].
        y = 2 * sinogram - beam(torch.ones_like(noise[:1]))
        rho = self.rho if self.lam else 1e-6
        between = TotalVariation(Measurement(beam, y), 0, self.lam, rho, self.inner, False)
        moves = plan(uniform(self.steps), Steer(Euler(), between.correction()))
        return (integrate(prior, noise, moves) + 1) / 2


def methods(steps: int = 40) -> dict[str, Reconstruction]:
    """Return what is compared, by name, from the plainest on."""
    return {
        "fbp": Filtered(),
        "tv": Smooth(),
        "prior": ByPrior(steps),
        "stack": ByPrior(steps, lam=0.04),
    }
