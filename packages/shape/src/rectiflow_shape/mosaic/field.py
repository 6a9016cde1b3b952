"""The field of a mosaic: a blend of the grids that a point lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.mosaic.representation import Mosaic

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CELLS = 32
"""Of the table of cubes, along an edge."""

CHUNK = 65_536
"""Points that are evaluated at once."""

_TINY = 1e-12


class MosaicField:
    r"""The signed distance of a mosaic, negative inside, at any point.

    In the union of the cubes it is :math:`\sum_i w_i(x) I_{V_i}((x - p_i) / s_i)` with trilinear
    :math:`I` and :math:`w_i \propto \mathrm{ReLU}(1 - \|x - p_i\|_\infty / s_i)`. Beyond, where
    the paper leaves it open, it is the value of the nearest cube at its border, moved away from
    zero by the distance to it: no wall of its own, and continuous where one cube is left.

    Parameters
    ----------
    mosaic : Mosaic
        Evaluated where its tensors lie.
    """

    def __init__(self, mosaic: Mosaic) -> None:
        self.mosaic = mosaic
        self.low, self.step, self.table = _table(mosaic.centres, mosaic.scales)

    def __call__(self, xyz: Float[Tensor, "q 3"]) -> Float[Tensor, " q"]:
        """Return the signed distance at points."""
        device = self.mosaic.centres.device
        parts = [self._part(part) for part in xyz.to(device).float().split(CHUNK)]
        return torch.cat(parts).to(xyz.device) if parts else xyz.new_zeros(0)

    def inside_positive(self, xyz: Float[Tensor, "q 3"]) -> Float[Tensor, " q"]:
        """Return the field as surfaces are extracted from it: positive inside."""
        return -self(xyz)

    def covers(self, xyz: Float[Tensor, "q 3"]) -> Bool[Tensor, " q"]:
        """Return which points lie in a cube."""
        found = self._candidates(xyz)
        mosaic = self.mosaic
        return (weights(mosaic.centres, mosaic.scales, xyz, found) > 0).any(-1)

    def _part(self, xyz: Tensor) -> Tensor:
        mosaic, found = self.mosaic, self._candidates(xyz)
        value, total = blend(mosaic.centres, mosaic.scales, mosaic.values, xyz, found)
        beyond = torch.nonzero(total <= _TINY)[:, 0]
        if len(beyond):
            value = value.index_put((beyond,), self._beyond(xyz[beyond]))
        return value

    def _beyond(self, xyz: Tensor) -> Tensor:
        """Return the nearest cube's value at its border, and the distance on top of it."""
        mosaic = self.mosaic
        nearest = torch.cat([self._nearest(part) for part in xyz.split(CHUNK // 8)])
        offset = xyz - mosaic.centres[nearest]
        reach = mosaic.scales[nearest, None]
        held = torch.maximum(torch.minimum(offset, reach), -reach)
        value = trilinear(mosaic.values, held / reach, nearest)
        away = (offset - held).norm(dim=-1)
        return value + torch.where(value < 0, -away, away)

    def _nearest(self, xyz: Tensor) -> Tensor:
        """Return the cube of each point that would hold it first if all grew alike."""
        mosaic = self.mosaic
        reach = torch.full((len(xyz), len(mosaic)), 0.0, device=xyz.device)
        for axis in range(3):
            gap = (xyz[:, None, axis] - mosaic.centres[None, :, axis]).abs_()
            torch.maximum(reach, gap, out=reach)
        return (reach / mosaic.scales).argmin(1)

    def _candidates(self, xyz: Tensor) -> Int[Tensor, "q c"]:
        cell = ((xyz - self.low) / self.step).floor().long()
        is_in = ((cell >= 0) & (cell < CELLS)).all(-1)
        cell = cell.clamp(0, CELLS - 1)
        rows = self.table[(cell[:, 0] * CELLS + cell[:, 1]) * CELLS + cell[:, 2]]
        return torch.where(is_in[:, None], rows, -1)


def blend(
    centres: Float[Tensor, "n 3"],
    scales: Float[Tensor, " n"],
    values: Float[Tensor, "n k k k"],
    xyz: Float[Tensor, "q 3"],
    candidates: Int[Tensor, "q c"],
) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
    """Blend the grids that may hold each point.

    Parameters
    ----------
    centres, scales, values
        As of a :class:`Mosaic`, or of several joined.
    xyz : Tensor
        Points.
    candidates : Tensor
        Cubes to look at for each point, -1 where there is none; those that hold the point must be
        among them.

    Returns
    -------
    value : Tensor, shape (q,)
        0 where no cube holds the point; differentiable in all that is given.
    total : Tensor, shape (q,)
        Sum of the weights before they are normalised.
    """
    weight = weights(centres, scales, xyz, candidates)
    # Most candidates hold nothing: only pairs that count are interpolated.
    point, slot = torch.nonzero(weight.detach() > 0, as_tuple=True)
    cube = candidates[point, slot]
    unit = (xyz[point] - centres[cube]) / scales[cube, None]
    found = weight[point, slot] * trilinear(values, unit, cube)
    total = weight.sum(-1)
    value = torch.zeros_like(total).index_add(0, point, found) / total.clamp_min(_TINY)
    return value, total


def weights(
    centres: Tensor, scales: Tensor, xyz: Float[Tensor, "q 3"], candidates: Int[Tensor, "q c"]
) -> Float[Tensor, "q c"]:
    """Return ``ReLU(1 - |x - p| / s)`` in the maximum norm, before it is normalised."""
    at = candidates.clamp_min(0)
    far = (xyz[:, None] - centres[at]).abs().amax(-1) / scales[at]
    return (1 - far).clamp_min(0) * (candidates >= 0)


def trilinear(
    values: Float[Tensor, "n k k k"], unit: Float[Tensor, "m 3"], cube: Int[Tensor, " m"]
) -> Float[Tensor, " m"]:
    """Interpolate grids at points of [-1, 1]³, each in its own grid."""
    k = values.shape[-1]
    place = (unit + 1) * (0.5 * (k - 1))
    low = place.detach().floor().clamp(0, k - 2)
    x, y, z = (place - low).unbind(-1)
    i, j, l = low.long().unbind(-1)  # noqa: E741
    base = ((cube * k + i) * k + j) * k + l
    flat = values.reshape(-1)
    # Along z, then y, then x.
    edges = [
        flat[base + a + b] * (1 - z) + flat[base + a + b + 1] * z
        for a in (0, k * k)
        for b in (0, k)
    ]
    faces = [edges[a] * (1 - y) + edges[a + 1] * y for a in (0, 2)]
    return faces[0] * (1 - x) + faces[1] * x


def holders(
    centres: Float[Tensor, "b n 3"], scales: Float[Tensor, "b n"], xyz: Float[Tensor, "b q 3"]
) -> Int[Tensor, "bq c"]:
    """Return the cubes that hold each point of its own shape, for shapes joined in one batch.

    Indices are those of the joined cubes, -1 where a point has fewer than another.
    """
    b, n = scales.shape
    far = torch.zeros(b, xyz.shape[1], n, device=xyz.device)
    for axis in range(3):
        gap = (xyz[:, :, None, axis] - centres[:, None, :, axis]).abs_()
        torch.maximum(far, gap, out=far)
    margin = scales[:, None] - far
    most = max(1, int((margin > 0).sum(-1).max()))
    best, index = margin.topk(min(most, n), dim=-1)
    joined = index + n * torch.arange(b, device=xyz.device)[:, None, None]
    return torch.where(best > 0, joined, -1).flatten(0, 1)


def _table(centres: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Int[Tensor, "cells c"]]:
    """List the cubes that meet each cell of a grid over all of them."""
    low = (centres - scales[:, None]).amin(0)
    step = ((centres + scales[:, None]).amax(0) - low) / CELLS
    cells = torch.arange(CELLS, device=centres.device)
    first = ((centres - scales[:, None] - low) / step).floor()[..., None]
    last = ((centres + scales[:, None] - low) / step).floor()[..., None]
    meets = (cells >= first) & (cells <= last)  # n, axis, cell
    x, y, z = meets.transpose(0, 2).unbind(1)  # cell, n
    pairs = [
        torch.nonzero((x[i, None, None] & y[:, None]) & z[None]) for i in range(CELLS)
    ]  # y cell, z cell, cube
    keys = torch.cat([(i * CELLS + p[:, 0]) * CELLS + p[:, 1] for i, p in enumerate(pairs)])
    cubes = torch.cat([p[:, 2] for p in pairs])
    counts = torch.bincount(keys, minlength=CELLS**3)
    starts = counts.cumsum(0) - counts
    slot = torch.arange(len(keys), device=keys.device) - starts[keys]
    table = torch.full((CELLS**3, int(counts.max())), -1, dtype=torch.long, device=keys.device)
    table[keys, slot] = cubes
    return low, step, table
