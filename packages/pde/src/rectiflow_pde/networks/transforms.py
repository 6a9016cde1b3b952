"""Between points and grids: the two kernel integrals of the mesh networks, and where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow_pde.networks.integral import FourierEmbedding, IntegralTransform
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
    """

    points: Float[Tensor, "n d"]
    sizes: tuple[int, ...]
    to_grid: Neighbours

    @cached_property
    def to_points(self) -> Neighbours:
        """Cells near each point."""
        return self.to_grid.turned()

    @property
    def batch(self) -> int:
        """How many meshes there are."""
        return len(self.sizes)

    def to(self, device: torch.device | str) -> Cloud:
        """Move to a device."""
        return Cloud(self.points.to(device), self.sizes, self.to_grid.to(device))

    @classmethod
    def of(cls, points: Tensor, grid: Tensor, radius: float) -> Cloud:
        """Find what is near the points of one mesh on a grid of cells."""
        near = within_radius(_array(grid), _array(points), radius)
        return cls(points, (len(points),), near)

    @classmethod
    def join(cls, clouds: Sequence[Cloud]) -> Cloud:
        """Put several into one batch."""
        if len(clouds) == 1:
            return clouds[0]
        return cls(
            torch.cat([cloud.points for cloud in clouds]),
            tuple(size for cloud in clouds for size in cloud.sizes),
            joined([cloud.to_grid for cloud in clouds]),
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
