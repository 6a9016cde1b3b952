"""DRDM: learning to undo what is implausible of a deformation, and deforming by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from rectiflow_imaging.deformation import compose, jacobian, warp

Network = Callable[[Tensor, Tensor], Tensor]
"""``network(image, t)`` returns the field that recovers it."""


def misfit(found: Tensor, label: Tensor) -> Tensor:
    """Return how far two fields are from cancelling, relative to the second, per row."""
    off = (100 * found + 100 * label).square().sum(1)
    return (off / ((100 * label).square().sum(1) + 1e-3)).flatten(1).mean(1)


def alignment(found: Tensor, label: Tensor) -> Tensor:
    """Return the mean cosine between two fields, -1 where they are opposite, per row."""
    a, b = 1e5 * found, 1e5 * label
    lengths = (a.square().sum(1) * b.square().sum(1) + 1e-4).sqrt()
    return ((a * b).sum(1) / lengths).flatten(1).mean(1)


def roughness(field: Tensor, *, compat: bool = False) -> Tensor:
    """Return what a field has of slopes above 1e-4 and of folds, per row.

    Parameters
    ----------
    field : Tensor, shape (b, n, *space)
    compat : bool, default False
        Take the authors' determinant: of the first n one-sided differences, axis by axis, backward
        and forward, without the identity. It is no Jacobian.
    """
    axes = range(2, field.ndim)
    slopes = [(field.diff(dim=axis).abs() - 1e-4).relu().flatten(1).mean(1) for axis in axes]
    if compat:
        sided = [side for axis in axes for side in _sided(field, axis)]
        matrix = torch.stack(sided[: field.shape[1]], 2).movedim((1, 2), (-2, -1))
        determinant = torch.linalg.det(matrix.transpose(-2, -1))
    else:
        determinant = jacobian(field)
    return torch.stack(slopes).mean(0) + 2 * (-determinant).relu().flatten(1).mean(1)


def loss(found: Tensor, label: Tensor, *, compat: bool = False) -> Tensor:
    """Return the loss of each row: what the network said against what it should undo."""
    moved = warp(found, label, padding="border")
    return misfit(moved, label) + alignment(moved, label) + 10 * roughness(found, compat=compat)


def recover(
    network: Network, image: Tensor, field: Tensor, steps: Iterable[int]
) -> tuple[Tensor, Tensor]:
    """Make a random deformation of an image plausible, step by step.

    The image itself is warped anew at each step, so that it is resampled once.

    Parameters
    ----------
    network : callable
    image : Tensor, shape (b, c, *space)
        As it was before the deformation.
    field : Tensor, shape (b, n, *space)
        The random one.
    steps : iterable of int
        Of the diffusion, falling.

    Returns
    -------
    field : Tensor
        The plausible one.
    image : Tensor
        As deformed by it.
    """
    moved = warp(image, field)
    for step in steps:
        t = torch.full((len(image),), step, device=image.device)
        field = compose(field, network(moved, t), padding="zeros")
        moved = warp(image, field)
    return field, moved


def _sided(field: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Return backward and forward differences, zero where there is none."""
    steps, edge = field.diff(dim=axis), torch.zeros_like(field.narrow(axis, 0, 1))
    return torch.cat([edge, steps], axis), torch.cat([steps, edge], axis)
