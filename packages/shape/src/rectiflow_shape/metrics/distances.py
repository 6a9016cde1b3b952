"""Distances between two shapes, given as points of their surfaces or as what is inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

F_SCORE_RADIUS = 0.02
"""Threshold of 3DShape2VecSet, for shapes in the box [-1, 1]³."""


def nearest(
    x: Float[Tensor, "n 3"], y: Float[Tensor, "m 3"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Return how far the nearest point of ``y`` is from each of ``x``, and which it is.

    A k-d tree on the CPU, all pairs in tiles on a GPU.
    """
    for name, points in (("x", x), ("y", y)):
        if points.ndim != 2 or points.shape[1] != 3 or not len(points):
            raise ValueError(f"{name} must be points of shape (n, 3), got {tuple(points.shape)}.")
    if x.device.type == "cpu":
        from scipy.spatial import cKDTree

        distance, index = cKDTree(y.numpy()).query(x.numpy())
        return torch.from_numpy(distance).to(x.dtype), torch.from_numpy(index)
    found = [torch.cdist(part, y).min(1) for part in x.split(max(1, (1 << 26) // len(y)))]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def chamfer(x: Float[Tensor, "n 3"], y: Float[Tensor, "m 3"]) -> Float[Tensor, ""]:
    r"""Chamfer distance with squares, ``CD`` of MMD, COV and 1-NNA.

    .. math:: \overline{\min_y |x - y|^2} + \overline{\min_x |x - y|^2}

    Examples
    --------
    >>> round(float(chamfer(torch.zeros(1, 3), torch.ones(2, 3))), 6)
    6.0
    """
    return nearest(x, y)[0].square().mean() + nearest(y, x)[0].square().mean()


def chamfer_l1(x: Float[Tensor, "n 3"], y: Float[Tensor, "m 3"]) -> Float[Tensor, ""]:
    """Chamfer distance without squares: half the sum of both mean distances, of reconstructions."""
    return (nearest(x, y)[0].mean() + nearest(y, x)[0].mean()) / 2


def emd(x: Float[Tensor, "n 3"], y: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    r"""Earth mover's distance, ``min over permutations of the mean |x - y|``, exactly.

    Raises
    ------
    ValueError
        If the numbers of points differ.
    """
    from scipy.optimize import linear_sum_assignment

    if x.shape != y.shape:
        raise ValueError(f"emd needs as many points, got {len(x)} and {len(y)}; draw as many.")
    costs = torch.cdist(x, y)
    rows, columns = linear_sum_assignment(costs.cpu().numpy())
    return costs[rows, columns].mean()


def f_score(
    x: Float[Tensor, "n 3"], y: Float[Tensor, "m 3"], radius: float = F_SCORE_RADIUS
) -> Float[Tensor, ""]:
    """F-score ``2 P R / (P + R)``: shares of points of ``x`` and of ``y`` within ``radius``."""
    precision = (nearest(x, y)[0] <= radius).to(x.dtype).mean()
    recall = (nearest(y, x)[0] <= radius).to(x.dtype).mean()
    return 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(x.dtype).tiny)


def normal_consistency(
    x: Float[Tensor, "n 3"],
    x_normals: Float[Tensor, "n 3"],
    y: Float[Tensor, "m 3"],
    y_normals: Float[Tensor, "m 3"],
) -> Float[Tensor, ""]:
    """Mean ``|cos|`` between the normals of nearest points, of both directions; 1 is best."""
    there = (x_normals * y_normals[nearest(x, y)[1]]).sum(1).abs().mean()
    back = (y_normals * x_normals[nearest(y, x)[1]]).sum(1).abs().mean()
    return (there + back) / 2


def iou(a: Bool[Tensor, " n"], b: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """Intersection over union of what is inside at the same points; 1 if both are empty."""
    union = int((a | b).sum())
    return torch.tensor(int((a & b).sum()) / union if union else 1.0)
