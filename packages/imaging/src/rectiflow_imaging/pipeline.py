"""Noise or readings in, images out; an image in, deformed ones out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.fields import bind
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.rectify import sample_generator
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from torch import Tensor

from rectiflow_imaging import drdm
from rectiflow_imaging.data.prepare import Fit, cropped_to, padded_to
from rectiflow_imaging.deformation import RandomField, folded, magnitude, warp
from rectiflow_imaging.io import Volume
from rectiflow_imaging.networks import ImageUNet, RecoveryNetwork
from rectiflow_imaging.reconstruction import Reconstruction, methods, reconstruct
from rectiflow_imaging.result import ImageResult

SHIPPED = Path(__file__).parent / "pretrained"
_TOGETHER = 64  # slices that one call of a network takes


class ImagePipeline(Pipeline):
    """Draws slices, and reconstructs volumes from few views.

    Parameters
    ----------
    network : ImageUNet, optional
        The prior. Without it volumes are reconstructed by methods that need none.
    side : int, default 64
        Of the slices, without a network, which has its own.
    """

    shipped = SHIPPED

    def __init__(
        self,
        network: ImageUNet | None = None,
        *,
        side: int = 64,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__({"network": network}, dtype=dtype)
        self.side = side if network is None else network.side

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the network."""
        return {"network": ImageUNet}

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return super().device if self.parts else torch.device("cpu")

    def work(self, part: str = "flow") -> Work:
        """Return the flow of some slices, or the reconstruction of a volume.

        ``"tv 64"`` is that by a method of slices of a side; its tokens are the views.
        """
        if part == "flow":
            return Work(self._run_flow, [(b, 1) for b in (1, 4, 16)], (1, 3))
        name = part.split()[0]
        sizes = (2, 4), (2, 16), (6, 4), (6, 16)
        calls = (1, 3) if name in ("prior", "stack") else (0,)
        return Work(partial(self._run_scan, name=name), sizes, calls)

    def _run_flow(self, load: Load) -> None:
        self(range(load.rows), steps=load.calls)

    def _run_scan(self, load: Load, name: str) -> None:
        draw = np.random.default_rng(0)
        volume = Volume(draw.random((load.rows, self.side, self.side), np.float32))
        self.reconstruct(volume, {name: methods(load.calls)[name]}, views=load.tokens)

    @property
    def field(self) -> Callable[[Any, Any], Any]:
        """The velocity of slices, in the pipeline's dtype."""
        field = bind(self.network)

        def velocity(x: Tensor, t: Any) -> Tensor:
            with torch.autocast(self.device.type, self.dtype, self.dtype != torch.float32):
                parts = [field(part, t) for part in x.split(_TOGETHER)]
            return torch.cat(parts).to(x)  # type: ignore[arg-type]

        return velocity

    def noise(self, indices: Sequence[int], seed: int = 0) -> Tensor:
        """Return the noise of slices by their numbers, ``(b, c, s, s)``."""
        net = self.network
        shape = net.channels, net.side, net.side
        drawn = [torch.randn(shape, generator=sample_generator(seed, i)) for i in indices]
        return torch.stack(drawn).to(self.device)

    @torch.no_grad()
    def flow(
        self,
        noise: Tensor,
        *,
        steps: int = 20,
        solver: Solver | None = None,
        grid: Spacing | None = None,
    ) -> Tensor:
        """Carry noise to slices in [-1, 1]."""
        times = (grid or uniform)(steps)
        return integrate(self.field, noise, plan(times, solver or Euler()))

    def __call__(
        self,
        indices: Sequence[int],
        *,
        steps: int = 20,
        solver: Solver | None = None,
        grid: Spacing | None = None,
        seed: int = 0,
    ) -> ImageResult:
        """Draw slices in [0, 1]; slice i depends on its number and the seed alone."""
        began = time.perf_counter()
        x = self.flow(self.noise(indices, seed), steps=steps, solver=solver, grid=grid)
        values = ((x + 1) / 2).clamp(0, 1).cpu().numpy()
        volumes = {f"image_{i:04d}": Volume(v) for i, v in zip(indices, values, strict=True)}
        told = {"steps": steps, "solver": repr(solver or Euler()), "seed": seed}
        seconds = time.perf_counter() - began
        return ImageResult(volumes, settings=self.describe() | told, seconds=seconds)

    @torch.no_grad()
    def reconstruct(
        self,
        volume: Volume,
        methods: Mapping[str, Reconstruction],
        *,
        views: int,
        sigma: float = 0.0,
        seed: int = 0,
    ) -> ImageResult:
        """Scan a volume and reconstruct it: :func:`~rectiflow_imaging.reconstruction.reconstruct`.

        It is brought to the side of the network, which is the prior.
        """
        noise = self.noise(range(1, len(volume.values) + 1), seed) if self.parts else None
        made = reconstruct(
            volume,
            methods,
            side=self.side,
            views=views,
            sigma=sigma,
            seed=seed,
            prior=self.field if self.parts else None,
            noise=noise,
        )
        return replace(made, settings=self.describe() | made.settings)


class DeformationPipeline(Pipeline):
    """Deforms images plausibly, labels with them (DRDM).

    Parameters
    ----------
    network : RecoveryNetwork
    """

    shipped = SHIPPED

    def __init__(self, network: RecoveryNetwork, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({"network": network}, dtype=dtype)

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the network."""
        return {"network": RecoveryNetwork}

    @classmethod
    def load_official(cls, path: Path) -> DeformationPipeline:
        """Load the authors' checkpoint."""
        from rectiflow_imaging.weights import load_official

        return cls(load_official(path))

    def work(self, part: str = "") -> Work:
        """Return a deformation of a volume, whose tokens are the pixels that the network sees."""
        slices = (1, 32**2), (1, 64**2), (4, 64**2)
        sizes = slices if self.network.axes == 2 else ((1, 16**3), (1, 24**3))
        return Work(self._run_deformation, sizes, (1, 3))

    def _run_deformation(self, load: Load) -> None:
        side = round(load.tokens ** (1 / self.network.axes))
        deep = side if self.network.axes == 3 else load.rows
        values = np.random.default_rng(0).random((deep, side, side), np.float32)
        self(Volume(values), [0], level=self.network.n_steps // 2, steps=load.calls)

    @torch.no_grad()
    def __call__(
        self,
        volume: Volume,
        indices: Sequence[int],
        *,
        level: int = 48,
        steps: int | None = None,
        seed: int = 0,
        field: RandomField | None = None,
    ) -> ImageResult:
        """Deform an image, once for each number.

        Slices of a volume move together where the network is of two dimensions.

        Parameters
        ----------
        volume : Volume
            Its labels, if it has them, are moved likewise, to the nearest.
        indices : sequence of int
        level : int, default 48
            Step of the diffusion whose random deformation is begun with: higher is stronger.
        steps : int, optional
            Steps of recovery; all of the network's if absent. With 0 the deformation stays random.
        seed : int
        field : RandomField, optional
        """
        began, net = time.perf_counter(), self.network
        if not 0 <= level < net.n_steps:
            raise ValueError(f"level must lie in 0 to {net.n_steps - 1}, got {level}.")
        deep, high, wide = volume.values.shape
        side = -(-max(high, wide, deep if net.axes == 3 else 0) // 8) * 8
        wide = padded_to(volume.values, side, net.axes)
        fit = Fit.of(volume.values, side)
        x = torch.from_numpy(wide).to(self.device)
        seen = x[:, None] if net.axes == 2 else x[None, None]
        least = float(x.min())  # what lies beyond the image
        shown = (fit.scaled(seen[len(seen) // 2][None]) + 1) / 2  # to the network: the middle slice
        labels = None
        if volume.labels is not None:
            whole = torch.from_numpy(padded_to(volume.labels.astype(np.float32), side, net.axes))
            labels = (whole[:, None] if net.axes == 2 else whole[None, None]).to(self.device)
        random, made, measured = field or RandomField(), {}, {}
        for index in indices:
            noise = random.noise(1, net.axes, generator=sample_generator(seed, index))
            start, _ = random(noise, torch.tensor([level]), side)
            path = range((net.n_steps if steps is None else steps) - 1, -1, -1)
            moved, _ = drdm.recover(net, shown, start.to(self.device), path)
            each = moved.expand(len(seen), *moved.shape[1:])
            values = (warp(seen - least, each) + least).cpu()
            name = f"deformed_{index:04d}"
            made[name] = cropped_to(volume, values)
            if labels is not None:
                kept = warp(labels, each, nearest=True).cpu().round()
                marks = cropped_to(volume, kept).values.astype(volume.labels.dtype)  # type: ignore[union-attr]
                made[name] = Volume(made[name].values, volume.affine, labels=marks)
            mean, most = magnitude(moved)
            measured[name] = {
                "folded": folded(moved).item(),
                "mean_displacement": mean.item(),
                "largest_displacement": most.item(),
            }
        told = {"level": level, "steps": steps, "seed": seed, "field": repr(random)}
        seconds = time.perf_counter() - began
        settings = self.describe() | told
        return ImageResult(made, measured, list(volume.notes), settings=settings, seconds=seconds)
