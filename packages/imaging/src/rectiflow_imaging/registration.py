"""Registration: the likeliest deformation without folds that brings one image onto another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.storage.files import whole_file
from torch import Tensor
from torch.nn import functional

from rectiflow_imaging.data.prepare import Fit, cropped_to, padded_to
from rectiflow_imaging.deformation import compose, folded, magnitude, warp
from rectiflow_imaging.io import Volume
from rectiflow_imaging.metrics import dice
from rectiflow_imaging.result import ImageResult

Likeness = Callable[[Tensor, Tensor], Tensor]
"""How alike two batches of images ``(b, 1, *space)`` are: a number, higher for more."""

_WINDOW = 7
_LEAST = 8  # side of the smallest images that are compared


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean correlation within windows of 7 pixels; 0 where nothing varies.

    Brightness and contrast may differ, and from place to place.
    """
    pool = functional.avg_pool2d if a.ndim == 4 else functional.avg_pool3d

    def mean(x: Tensor) -> Tensor:
        return pool(x, _WINDOW, 1, _WINDOW // 2, count_include_pad=False)

    ma, mb = mean(a), mean(b)
    both, va, vb = mean(a * b) - ma * mb, mean(a * a) - ma * ma, mean(b * b) - mb * mb
    return (both / (va.clamp_min(0) * vb.clamp_min(0) + 1e-3).sqrt()).mean()


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference, less than 0."""
    return -(a - b).square().mean()


LIKENESS: dict[str, Likeness] = {"correlation": correlation, "squares": squares}


@dataclass(frozen=True)
class Registration:
    """The most probable flow of a velocity that is drawn as DRDM's deformations are.

    A velocity is a sum of grids of normal numbers, coarser ones stronger; the flow along it has an
    inverse. The numbers are descended, on images that are halved less and less, to where ``alike +
    (minus) weight * mean square`` is best.

    Parameters
    ----------
    likeness : callable
        One of :data:`LIKENESS`.
    sides : tuple of int
        Of the grids.
    scale : float
        Of the velocity, in shares of the image's side.
    weight : float
        Of the prior: higher is stiffer.
    shrinks : tuple of int
        By what images are made smaller, one round each, but not below 8 pixels.
    iterations : int
        Of Adam in each round.
    rate : float
        Of Adam.
    squarings : int
        The flow is that often composed with itself.

    References
    ----------
    Arsigny et al., "A Log-Euclidean Framework for Statistics on Diffeomorphisms" (MICCAI 2006);
    Zheng et al., "Deformation-Recovery Diffusion Model (DRDM)" (Medical Image Analysis 2026).
    """

    likeness: Likeness = correlation
    sides: tuple[int, ...] = (2, 4, 8, 16)
    scale: float = 0.25
    weight: float = 0.1
    shrinks: tuple[int, ...] = (4, 2, 1)
    iterations: int = 60
    rate: float = 0.1
    squarings: int = 6

    def field(self, noise: list[Tensor], side: int) -> Tensor:
        """Return the deformation ``(b, n, *space)`` that numbers on the grids stand for."""
        axes = noise[0].ndim - 2
        mode = "bilinear" if axes == 2 else "trilinear"
        parts = [
            functional.interpolate(
                z * (self.scale / z.shape[-1]), [side] * axes, mode=mode, align_corners=True
            )
            for z in noise
        ]
        found = torch.stack(parts).sum(0) / 2**self.squarings
        for _ in range(self.squarings):
            found = compose(found, found)
        return found

    def __call__(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Return the field that warps images onto others.

        Parameters
        ----------
        moving, fixed : Tensor, shape (1, 1, *space)
            In [-1, 1], of one side that is a multiple of all ``shrinks``.
        """
        axes, side = moving.ndim - 2, moving.shape[-1]
        pool = functional.avg_pool2d if axes == 2 else functional.avg_pool3d
        noise = [
            torch.zeros(1, axes, *(s,) * axes, device=moving.device, requires_grad=True)
            for s in self.sides
        ]
        optimizer = torch.optim.Adam(noise, self.rate)
        with torch.enable_grad():
            for shrink in (n for n in self.shrinks if side >= _LEAST * n or n == 1):
                a, b = pool(moving, shrink), pool(fixed, shrink)
                for _ in range(self.iterations):
                    optimizer.zero_grad()
                    moved = warp(a + 1, self.field(noise, side // shrink)) - 1
                    stiff = torch.stack([z.square().mean() for z in noise]).mean()
                    (self.weight * stiff - self.likeness(moved, b)).backward()
                    optimizer.step()
        return self.field([z.detach() for z in noise], side)


@dataclass(frozen=True)
class RegistrationResult(ImageResult):
    """The moving image where the fixed one is, and the deformation that brought it there.

    Attributes
    ----------
    field : Tensor, shape (n, *space)
        Voxels that each place of the fixed image looks away, along rows and columns, of volumes
        slices first.
    """

    _: KW_ONLY
    field: Tensor

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write the images, and the field as ``field.npz``."""
        rows = super().write(folder, suffix)
        with whole_file(folder / "field.npz") as part, part.open("wb") as file:
            np.savez(file, field=self.field.numpy())
        return [*rows, {"name": "field", "files": ["field.npz"]}]


@torch.no_grad()
def register(
    moving: Volume,
    fixed: Volume,
    method: Registration | None = None,
    *,
    device: torch.device | str = "cpu",
) -> RegistrationResult:
    """Bring an image onto another, its labels with it.

    The moving image is first sampled where the voxels of the fixed one are, if both tell their
    places.

    Parameters
    ----------
    moving, fixed : Volume
        One slice each, or volumes.
    method : Registration, optional
    device : device

    Returns
    -------
    RegistrationResult
        ``registered``, and ``segmentation`` where the moving image has labels; how alike images
        were and are, the share of voxels where the map folds, how far it moves, and where both have
        labels the mean Dice over those of the fixed image, before and after.

    Raises
    ------
    ValueError
        When places are not told and shapes differ, or one is a slice and the other a volume.
    """
    began, method = time.perf_counter(), method or Registration()
    there, axes = onto(moving, fixed), 3 if len(fixed.values) > 1 else 2
    least = math.lcm(_LEAST, *method.shrinks)
    side = -(-max(fixed.values.shape[3 - axes :]) // least) * least

    def tensor(values: np.ndarray) -> Tensor:
        wide = torch.from_numpy(padded_to(values.astype(np.float32), side, axes))
        return (wide[:, None] if axes == 2 else wide[None, None]).to(device)

    images = tensor(there.values), tensor(fixed.values)
    a, b = (
        Fit.of(volume.values, side).scaled(x)
        for volume, x in zip((there, fixed), images, strict=True)
    )
    field, low = method(a, b), images[0].min()
    made = {"registered": cropped_to(fixed, (warp(images[0] - low, field) + low).cpu())}
    mean, most = magnitude(field)
    measured: dict[str, Any] = {
        "likeness_before": method.likeness(a, b).item(),
        "likeness": method.likeness(warp(a + 1, field) - 1, b).item(),
        "folded": folded(field).item(),
        "mean_displacement": mean.item(),
        "largest_displacement": most.item(),
    }
    if there.labels is not None:
        moved = warp(tensor(there.labels), field, nearest=True).cpu().round()
        labels = cropped_to(fixed, moved).values.astype(there.labels.dtype)
        made["registered"] = replace(made["registered"], labels=labels)
        made["segmentation"] = fixed.like(labels)
        if fixed.labels is not None:
            measured["dice_before"] = mean_dice(there.labels, fixed.labels)
            measured["dice"] = mean_dice(labels, fixed.labels)
    parts = (side * field[0]).cpu()[:, None, None]
    voxels = [torch.from_numpy(cropped_to(fixed, part).values) for part in parts]
    return RegistrationResult(
        made,
        {"registered": measured},
        [*moving.notes, *fixed.notes],
        field=torch.stack(voxels),
        settings={"method": repr(method)},
        seconds=time.perf_counter() - began,
    )


def onto(moving: Volume, fixed: Volume) -> Volume:
    """Return an image at the voxels of another: by their places, or as it is in equal shapes."""
    if (len(moving.values) > 1) != (len(fixed.values) > 1):
        raise ValueError(
            f"images have {len(moving.values)} and {len(fixed.values)} slices; expected two flat "
            "images or two volumes."
        )
    if moving.affine is None or fixed.affine is None:
        if moving.values.shape != fixed.values.shape:
            raise ValueError(
                f"images are of shapes {moving.values.shape} and {fixed.values.shape}, and not "
                "both files tell where they are; expected one shape, or files with places."
            )
        return replace(fixed, values=moving.values, labels=moving.labels)
    if moving.values.shape == fixed.values.shape and np.allclose(moving.affine, fixed.affine):
        return moving
    index = np.linalg.inv(moving.affine) @ fixed.affine
    if len(fixed.values) == 1:  # flat images are laid in one plane
        index[0] = 0, 0, 0, 0
    from scipy.ndimage import affine_transform

    told: Any = {"output_shape": fixed.values.shape, "offset": index[:3, 3]}
    values = affine_transform(
        moving.values, index[:3, :3], order=1, cval=float(moving.values.min()), **told
    )
    labels = None
    if moving.labels is not None:
        labels = affine_transform(moving.labels, index[:3, :3], order=0, **told)
    return replace(fixed, values=values, labels=labels)


def mean_dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean Dice over the labels of the truth that are not 0."""
    kinds = [kind for kind in np.unique(truth) if kind]
    pairs = ((torch.from_numpy(found == k), torch.from_numpy(truth == k)) for k in kinds)
    return float(np.mean([dice(a, b) for a, b in pairs])) if kinds else 1.0
