"""Instruments as matrices: sensors on a mesh, and projections along rays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.inverse.operators import Matrix

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_EDGE = 1e-9  # how far outside a cell, in shares, still counts as on its edge


def sensors(
    points: Float[Tensor, "n d"], cells: Int[Tensor, "m c"], where: Float[Tensor, "s d"]
) -> Matrix:
    """Return what sensors read of values at the nodes of a mesh, linear in its cells.

    Parameters
    ----------
    points : Tensor, shape (n, d)
        Nodes.
    cells : Tensor, shape (m, d + 1)
        Triangles in the plane, tetrahedra in space: indices of nodes.
    where : Tensor, shape (s, d)
        Sensors.

    Raises
    ------
    ValueError
        When a sensor is in no cell, or cells are not simplices.
    """
    dim = points.shape[1]
    if cells.shape[1] != dim + 1 or where.shape[1] != dim:
        raise ValueError(
            f"cells must be simplices of {dim + 1} nodes and sensors have {dim} coordinates, got "
            f"{cells.shape[1]} nodes and {where.shape[1]} coordinates."
        )
    corners = points.double()[cells]
    edges = (corners[:, 1:] - corners[:, :1]).transpose(1, 2)
    rows = []
    for i, place in enumerate(where.double()):
        rest = torch.linalg.solve(edges, place - corners[:, 0])
        shares = torch.cat([1 - rest.sum(1, keepdim=True), rest], 1)
        best = int(shares.amin(1).argmax())
        if not shares[best].min() >= -_EDGE:
            raise ValueError(
                f"sensor {i} at {tuple(round(x, 6) for x in place.tolist())} is outside of the "
                "mesh; expected places inside."
            )
        rows.append((cells[best], shares[best]))
    columns = torch.cat([nodes for nodes, _ in rows])
    index = torch.stack([torch.arange(len(rows)).repeat_interleave(dim + 1), columns])
    weights = torch.cat([share for _, share in rows])
    return Matrix(
        torch.sparse_coo_tensor(index, weights, (len(rows), len(points)), check_invariants=True)
    )


def projection(size: tuple[int, int], angles: Sequence[float]) -> Matrix:
    """Return sums of images along parallel rays: tomography.

    Each pixel is shared out between the two nearest rays of each angle; a ray per pixel of the
    longer diagonal.

    Parameters
    ----------
    size : tuple of int
        Rows and columns of the images.
    angles : sequence of float
        Radians; at 0 rays run along the rows.
    """
    high, wide = size
    across = math.ceil(math.hypot(high, wide)) + 1
    y, x = torch.meshgrid(
        torch.arange(high, dtype=torch.float64) - (high - 1) / 2,
        torch.arange(wide, dtype=torch.float64) - (wide - 1) / 2,
        indexing="ij",
    )
    rays, pixels, weights = [], [], []
    for i, angle in enumerate(angles):
        place = (y * math.cos(angle) - x * math.sin(angle)).flatten() + (across - 1) / 2
        first = place.floor()
        for ray, weight in ((first, 1 - (place - first)), (first + 1, place - first)):
            rays.append(ray.long() + i * across)
            pixels.append(torch.arange(high * wide))
            weights.append(weight)
    index = torch.stack([torch.cat(rays), torch.cat(pixels)])
    shape = (len(angles) * across, high * wide)
    return Matrix(
        torch.sparse_coo_tensor(index, torch.cat(weights), shape, check_invariants=True), size
    )
