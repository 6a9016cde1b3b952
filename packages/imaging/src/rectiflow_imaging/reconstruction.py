"""Slices from few views: by filtering, by total variation, and by a flow as prior."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse import Measurement, TotalVariation
from rectiflow.rectify import sample_generator
from rectiflow.solvers import Euler
from rectiflow.steering import Steer
from torch import Tensor

from rectiflow_imaging.data.prepare import Fit
from rectiflow_imaging.io import Volume
from rectiflow_imaging.metrics import psnr, ssim, stack_variation
from rectiflow_imaging.operators import ParallelBeam, view_angles
from rectiflow_imaging.result import ImageResult

Field = Callable[[Any, Any], Any]


class Reconstruction(ABC):
    """A way from a sinogram ``(z, 1, views, s)`` to slices ``(z, 1, s, s)``, both for [0, 1]."""

    @abstractmethod
    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor | None
    ) -> Tensor:
        """Return the slices; ``noise`` is where a flow starts."""


@dataclass(frozen=True)
class Filtered(Reconstruction):
    """Filtered back-projection."""

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor | None
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

    lam: float = 0.02
    rho: float = 10.0
    inner: int = 4
    iterations: int = 150

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor | None
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

    def __call__(
        self, beam: ParallelBeam, sinogram: Tensor, prior: Field | None, noise: Tensor | None
    ) -> Tensor:
        """Return the slices; see :class:`Reconstruction`."""
        if prior is None or noise is None:
            raise ValueError("a prior is needed, got no network; expected trained weights.")
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


@torch.no_grad()
def reconstruct(
    volume: Volume,
    methods: Mapping[str, Reconstruction],
    *,
    side: int,
    views: int,
    sigma: float = 0.0,
    seed: int = 0,
    prior: Field | None = None,
    noise: Tensor | None = None,
) -> ImageResult:
    """Scan a volume from few views, and reconstruct it.

    Parameters
    ----------
    volume : Volume
        What is scanned, its slices brought to squares of ``side``.
    methods : mapping of str to Reconstruction
        By the name of its image.
    views : int
        Spread evenly over half a turn.
    sigma : float, default 0
        Of normal noise in the sinogram, as a share of its largest value.
    seed : int
        Of that noise.
    prior, noise : optional
        Velocity of slices in [-1, 1], and where each begins, for methods that need them.

    Returns
    -------
    ImageResult
        The truth as scanned, and one image for each method, all in the units of the file, with
        PSNR and SSIM of values in [0, 1].
    """
    if sigma < 0:
        raise ValueError(f"noise must be at least 0, got {sigma}.")
    began, fit = time.perf_counter(), Fit.of(volume.values, side)
    truth = (fit.squares(volume) + 1) / 2
    truth = truth if noise is None else truth.to(noise)
    beam = ParallelBeam(side, view_angles(views))
    sinogram = beam(truth)
    drawn = torch.randn(sinogram.shape, generator=sample_generator(seed, 0))
    sinogram = sinogram + sigma * sinogram.max() * drawn.to(sinogram)
    made, measured = {"truth": truth}, {}
    for name, method in methods.items():
        made[name] = x = method(beam, sinogram, prior, noise).clamp(0, 1)
        measured[name] = {
            "psnr": psnr(x[:, 0], truth[:, 0]),
            "ssim": ssim(x[:, 0], truth[:, 0]),
            "variation": stack_variation(x[:, 0]),
            "misfit": (beam(x) - sinogram).square().mean().sqrt().item(),
        }
    volumes = {
        name: _placed(volume, fit.restored(2 * x[:, 0].cpu() - 1)) for name, x in made.items()
    }
    told: dict[str, Any] = {"views": views, "sigma": sigma, "seed": seed, "side": side}
    told["methods"] = {name: repr(method) for name, method in methods.items()}
    seconds, notes = time.perf_counter() - began, list(volume.notes)
    return ImageResult(volumes, measured, notes, settings=told, seconds=seconds)


def _placed(volume: Volume, values: Tensor) -> Volume:
    """Return square slices of another side at the places of the volume."""
    if volume.affine is None:
        return Volume(values.numpy())
    high, wide = volume.values.shape[1:]
    most, side = max(high, wide), values.shape[-1]
    pixel = most / side
    # Pixel i of the result covers pixels i*pixel ... (i+1)*pixel of the padded square.
    shift = (pixel - 1) / 2
    index = np.diag([1.0, pixel, pixel, 1.0])
    index[1, 3], index[2, 3] = shift - (most - high) // 2, shift - (most - wide) // 2
    return Volume(values.numpy(), volume.affine @ index)
