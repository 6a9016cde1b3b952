"""Degraded images in, restored ones out: PMRF and RDDM."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.fields import bind
from rectiflow.grids import uniform
from rectiflow.integrate import plan
from rectiflow.inverse import restore
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.rectify import sample_generator
from rectiflow.solvers import Euler
from torch import Tensor

from rectiflow_imaging.data.prepare import Fit, cropped_to, padded_to
from rectiflow_imaging.io import Volume
from rectiflow_imaging.metrics import psnr, ssim
from rectiflow_imaging.networks import MeanFlowNetwork, ResidualNetwork
from rectiflow_imaging.result import ImageResult


class RestorationPipeline(Pipeline):
    """Restores slices that are noisy or blurred as those of the training were.

    Parameters
    ----------
    network : MeanFlowNetwork or ResidualNetwork
    """

    shipped = Path(__file__).parent / "pretrained"

    def __init__(
        self, network: MeanFlowNetwork | ResidualNetwork, *, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__({"network": network}, dtype=dtype)

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the classes of the network."""
        return {"network": (MeanFlowNetwork, ResidualNetwork)}

    def work(self, part: str = "") -> Work:
        """Return the restoration of a volume, whose tokens are the pixels of a slice."""

        def run(load: Load) -> None:
            side = round(load.tokens**0.5)
            values = np.random.default_rng(0).random((load.rows, side, side), np.float32)
            self(Volume(values), steps=load.calls)

        return Work(run, [(b, side**2) for b in (1, 3) for side in (16, 32, 48)], (1, 3))

    @torch.no_grad()
    def restored(
        self, degraded: Tensor, *, steps: int = 25, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return what the network makes of images ``(b, c, s, s)`` in [-1, 1], by name.

        ``restored``, and of PMRF the ``estimate`` of the posterior mean.
        """
        net = self.network
        if isinstance(net, MeanFlowNetwork):
            mean, moves = net.estimate(degraded), plan(uniform(steps), Euler())
            told: Any = {"sigma": net.sigma, "generator": generator}
            flowed = restore(bind(net), mean, moves, **told)
            return {"estimate": mean, "restored": flowed.clamp(-1, 1)}
        start = torch.randn(degraded.shape, generator=generator, device=degraded.device)
        return {"restored": net.diffusion.sample(net, degraded, start, count=steps).clamp(-1, 1)}

    @torch.no_grad()
    def __call__(
        self, volume: Volume, *, steps: int = 25, seed: int = 0, trial: bool = False
    ) -> ImageResult:
        """Restore each slice of a volume, at its own resolution.

        Parameters
        ----------
        volume : Volume
        steps : int, default 25
            Of the flow, or of the diffusion.
        seed : int
        trial : bool, default False
            Degrade the volume first, as in the training, and tell how near everything comes to it.

        Returns
        -------
        ImageResult
            ``restored``; of PMRF the ``estimate`` too, and of a trial what was ``degraded``.
        """
        began, net = time.perf_counter(), self.network
        side = -(-max(volume.values.shape[1:]) // 8) * 8
        fit = Fit.of(volume.values, side)
        wide = torch.from_numpy(padded_to(volume.values, side, 2))[:, None]
        span = fit.high - fit.low or 1.0
        truth = (2 * (wide - fit.low) / span - 1).to(self.device)  # noise reaches beyond the ends
        made, y = {}, truth
        if trial:
            truth = truth.clamp(-1, 1)
            made["degraded"] = y = net.degraded(truth, sample_generator(seed, 0))
        made |= self.restored(y, steps=steps, generator=sample_generator(seed, 1, self.device))
        volumes = {name: cropped_to(volume, fit.restored(x.cpu())) for name, x in made.items()}
        measured = {}
        if trial:
            clean = torch.from_numpy(cropped_to(volume, fit.restored(truth.cpu())).values)
            for name, each in volumes.items():
                x = torch.from_numpy(each.values)
                near = psnr(x, clean, span=span), ssim(x, clean, span=span)
                measured[name] = dict(zip(("psnr", "ssim"), near, strict=True))
        told = {"steps": steps, "seed": seed, "trial": trial}
        return ImageResult(
            volumes,
            measured,
            list(volume.notes),
            settings=self.describe() | told,
            seconds=time.perf_counter() - began,
        )
