"""Between points and grids: the two kernel integrals of the mesh networks, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow_pde.networks.integral import FourierEmbedding, IntegralTransform, PointMlp
from rectiflow_pde.networks.neighbours import Neighbours, joined, within_radius

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class TransformConfig:
    """Sizes of a kernel integral; the defaults are those of the released mesh autoencoder.

    Parameters
    ----------
    radius : float
        Within which a point is near, in units of the normalised domain.
    embedding : int
        Channels of an embedded position.
    kernel : tuple of int
        Hidden widths of the kernel.
    kind : str
        As for :class:`~rectiflow_pde.networks.integral.IntegralTransform`.
    """

    radius: float = 0.0425
    embedding: int = 16
    kernel: tuple[int, ...] = (64, 64, 64, 64)
    kind: str = "linear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", tuple(self.kernel))


@dataclass(frozen=True, eq=False)
class Cloud:
    """The points of a batch, mesh after mesh, and which cells of the grid are near them.

    Attributes
    ----------
    points : Tensor, shape (n, d)
        Normalised positions, of space and time where the network integrates over both.
    sizes : tuple of int
        Points of each mesh.
    to_grid : Neighbours
        Points near each cell; the cells of the second mesh follow those of the first.
    to_points : Neighbours
        Cells near each point.
    geometry : Tensor, shape (n, k), optional
        What else the decoder is told of a point.
    """

    points: Float[Tensor, "n d"]
    sizes: tuple[int, ...]
    to_grid: Neighbours
    to_points: Neighbours
    geometry: Float[Tensor, "n k"] | None = None

    @property
    def batch(self) -> int:
        """How many meshes there are."""
        return len(self.sizes)

    def to(self, device: torch.device | str) -> Cloud:
        """Move to a device."""
        geometry = None if self.geometry is None else self.geometry.to(device)
        near = self.to_grid.to(device), self.to_points.to(device)
        return Cloud(self.points.to(device), self.sizes, *near, geometry)

    @classmethod
    def of(
        cls, points: Tensor, grid: Tensor, radius: float, geometry: Tensor | None = None
    ) -> Cloud:
        """Find what is near the points of one mesh on a grid of cells."""
        near = within_radius(grid.cpu().double().numpy(), _array(points), radius)
        return cls(points, (len(points),), near, near.turned(), geometry)

    @classmethod
    def join(cls, clouds: Sequence[Cloud]) -> Cloud:
        """Put several into one batch."""
        if len(clouds) == 1:
            return clouds[0]
        geometry = [c.geometry for c in clouds if c.geometry is not None]
        return cls(
            torch.cat([cloud.points for cloud in clouds]),
            tuple(size for cloud in clouds for size in cloud.sizes),
            joined([cloud.to_grid for cloud in clouds]),
            joined([cloud.to_points for cloud in clouds]),
            torch.cat(geometry) if geometry else None,
        )


def _array(points: Tensor) -> np.ndarray:
    return points.detach().cpu().double().numpy()


class _Projection(nn.Module):
    """One linear layer under the authors' name."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Linear(inputs, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        return self.fcs[0](x)


class ToGrid(nn.Module):
    """Average a function of points onto the cells of a grid.

    Parameters
    ----------
    c : TransformConfig
    dims, inputs, outputs : int
        Of a position; channels of the function and of the grid.
    """

    def __init__(self, c: TransformConfig, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.x_projection = _Projection(inputs, outputs)
        self.pos_embed = FourierEmbedding(c.embedding, dims)
        known = outputs if c.kind.startswith("nonlinear") else 0
        self.gno_in = IntegralTransform([2 * c.embedding + known, *c.kernel, outputs], c.kind)

    def forward(
        self, values: Float[Tensor, "n k"], cloud: Cloud, grid: Float[Tensor, "g d"]
    ) -> Float[Tensor, "b g c"]:
        """Return the function on the grid of each mesh."""
        cells = self.pos_embed(grid).repeat(cloud.batch, 1)
        f, points = self.x_projection(values), self.pos_embed(cloud.points)
        return self.gno_in(points, cells, f, cloud.to_grid).unflatten(0, (cloud.batch, -1))


class ToPoints(nn.Module):
    """Average the cells of a grid onto points, and map channels to fields."""

    def __init__(self, c: TransformConfig, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.pos_embed = FourierEmbedding(c.embedding, dims)
        known = inputs if c.kind.startswith("nonlinear") else 0
        self.gno_out = IntegralTransform([2 * c.embedding + known, *c.kernel, inputs], c.kind)
        self.projection = _Projection(inputs, outputs)

    def forward(
        self, grids: Float[Tensor, "b g c"], cloud: Cloud, grid: Float[Tensor, "g d"]
    ) -> Float[Tensor, "n k"]:
        """Return the fields at the points."""
        cells = self.pos_embed(grid).repeat(cloud.batch, 1)
        points = self.pos_embed(cloud.points)
        return self.projection(self.gno_out(cells, points, grids.flatten(0, 1), cloud.to_points))


class OffsetTransform(nn.Module):
    """Average over neighbours by several kernels of where they lie from here; ours.

    A kernel of two absolute positions has to learn that only their difference counts; these are
    told the difference, and are numbers, not channels: all frames and channels share them, so they
    are evaluated once for each pair of a mesh, and summing is one product of matrices.

    Parameters
    ----------
    radius : float
        Offsets are divided by it, and kernels fade to zero there, so that the result stays
        continuous as neighbours come and go.
    hidden : tuple of int
        Widths of the layers that make the kernels.
    kernels : int
        How many.
    """

    def __init__(self, radius: float, hidden: Sequence[int], kernels: int) -> None:
        super().__init__()
        self.radius = radius
        self.kernel = PointMlp([3, *hidden, kernels])

    def forward(
        self,
        y: Float[Tensor, "s d"],
        x: Float[Tensor, "q d"],
        f: Float[Tensor, "s t c"],
        near: Neighbours,
    ) -> Float[Tensor, "q t m"]:
        """Return the averages at each query, channels of one kernel after each other."""
        offset = (y[near.source] - x[near.query]) / self.radius
        length = offset.square().sum(-1, keepdim=True)
        fade = (1 - length).clamp_min(0)
        total = fade.new_zeros(near.n_queries, 1).index_add(0, near.query, fade)
        value = self.kernel(torch.cat([offset, length], -1))
        value = value * fade / total.clamp_min(1e-6)[near.query]
        # Rows of equal length, filled up with weight zero.
        counts = near.counts
        place = torch.arange(len(near.query), device=x.device)
        place = place - (counts.cumsum(0) - counts)[near.query]
        longest = max(int(counts.max()), 1)
        source = near.source.new_zeros(near.n_queries, longest)
        source[near.query, place] = near.source
        weights = value.new_zeros(near.n_queries, longest, value.shape[1])
        weights = weights.index_put((near.query, place), value)
        gathered = f.flatten(1)[source.flatten()].unflatten(0, source.shape)
        out = weights.transpose(1, 2) @ gathered  # q, kernels, t * c
        return out.unflatten(2, f.shape[1:]).permute(0, 2, 1, 3).flatten(2)
