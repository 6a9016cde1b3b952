"""The discriminator that an autoencoder of meshes may be trained against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rectiflow_pde.networks.integral import lattice
from rectiflow_pde.networks.transforms import Cloud, ToGrid, TransformConfig

if TYPE_CHECKING:
    from jaxtyping import Float


class MeshDiscriminator(nn.Module):
    """Judge the fields around each cell of a coarse grid of space and time.

    Parameters
    ----------
    fields : int
        Channels of the function.
    cells : int
        Of the grid along each axis.
    transform : TransformConfig, optional
        The authors' if absent.
    width : int
        Channels of a verdict.

    References
    ----------
    Zhou et al., Text2PDE (arXiv 2410.01153); the kernel ends in a hyperbolic tangent.
    """

    def __init__(
        self,
        fields: int = 3,
        cells: int = 16,
        transform: TransformConfig | None = None,
        width: int = 64,
    ) -> None:
        super().__init__()
        c = transform or TransformConfig(0.05, 16, (64,), "nonlinear")
        self.radius = c.radius
        self.to_grid = ToGrid(c, 3, fields, width)
        self.grid: Tensor
        self.register_buffer("grid", lattice((cells,) * 3), persistent=False)

    def forward(self, values: Float[Tensor, "n k"], points: Tensor) -> Float[Tensor, "g c"]:
        """Return verdicts in (-1, 1) on values at the places and times of one mesh."""
        cloud = Cloud.of(points, self.grid, self.radius)
        return torch.tanh(self.to_grid(values, cloud, self.grid)[0])
