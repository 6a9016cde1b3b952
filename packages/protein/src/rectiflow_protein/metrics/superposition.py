"""Optimal superposition, and how far a structure is from another after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def kabsch(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    r"""Find the rigid motion that brings ``mobile`` nearest to ``target``.

    .. math:: \min_{R \in SO(3),\, t} \sum_i m_i \,|R x_i + t - y_i|^2

    Parameters
    ----------
    mobile, target : Tensor, shape (..., n, 3)
        Corresponding points, any unit.
    mask : Tensor, shape (..., n), optional
        True for points that count.

    Returns
    -------
    rotation : Tensor, shape (..., 3, 3)
        Proper rotation acting on column vectors; never a mirror.
    translation : Tensor, shape (..., 3)

    References
    ----------
    Kabsch, "A solution for the best rotation to relate two sets of vectors" (1976).

    Examples
    --------
    >>> x = torch.randn(5, 3)
    >>> rotation, translation = kabsch(x, x + 1)
    >>> torch.allclose(translation, torch.ones(3), atol=1e-4)
    True
    """
    if mobile.shape != target.shape or mobile.ndim < 2 or mobile.shape[-1] != 3:
        raise ValueError(
            f"superposition needs two equal shapes (..., n, 3), got {tuple(mobile.shape)} and "
            f"{tuple(target.shape)}. Select corresponding residues first."
        )
    x, y = mobile.double(), target.double()
    weight = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].double()
    total = weight.sum(-2, keepdim=True).clamp_min(1)
    x_mean = (weight * x).sum(-2, keepdim=True) / total
    y_mean = (weight * y).sum(-2, keepdim=True) / total
    covariance = (weight * (y - y_mean)).mT @ (x - x_mean)
    u, _, vh = torch.linalg.svd(covariance)
    signs = torch.ones_like(covariance[..., 0])
    signs[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation = u @ (signs[..., None] * vh)
    translation = y_mean.squeeze(-2) - (rotation @ x_mean.mT).squeeze(-1)
    return rotation.to(mobile.dtype), translation.to(mobile.dtype)


def superpose(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b n 3"]:
    """Move ``mobile`` onto ``target`` by the best rigid motion; see :func:`kabsch`."""
    rotation, translation = kabsch(mobile, target, mask)
    return mobile @ rotation.mT + translation[..., None, :]


def sc_rmsd(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b"]:
    """Root mean square CA distance after superposition, in ångström."""
    distance, weight = _displacement(mobile, target, mask)
    return torch.sqrt((weight * distance**2).sum(-1) / weight.sum(-1))


def sc_mean_displacement(
    mobile: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b"]:
    """Mean CA distance after superposition, in ångström.

    This is what the published code calls scRMSD; it never exceeds :func:`sc_rmsd`.
    """
    distance, weight = _displacement(mobile, target, mask)
    return (weight * distance).sum(-1) / weight.sum(-1)


def _displacement(mobile: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Distances (..., n) after superposition, and their weights."""
    distance = torch.linalg.vector_norm(superpose(mobile, target, mask) - target, dim=-1)
    return distance, torch.ones_like(distance) if mask is None else mask.to(distance.dtype)
