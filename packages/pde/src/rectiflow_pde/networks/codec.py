"""Our own autoencoder of flows on meshes: small, frame by frame in space, told the boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.networks.autoencoder import Posterior
from rectiflow_pde.networks.convolution import ConvConfig, ResidualBlock, convolution
from rectiflow_pde.networks.integral import PointMlp, lattice
from rectiflow_pde.networks.transforms import Cloud, OffsetTransform

if TYPE_CHECKING:
    from jaxtyping import Float

GEOMETRY = 2
"""What a point is told: its distances from the obstacle and from other walls, in domain lengths."""

SCALES = (0.01, 0.03, 0.1)
"""Lengths at which a distance fades, in the same unit: a boundary layer, a radius, a wake."""


@dataclass(frozen=True)
class FrameConfig:
    """Sizes of the codec.

    Parameters
    ----------
    fields : int
        Channels of the function, velocity first.
    cells : tuple of int
        Of the grid along x and y; the latent's is half as fine.
    frames : int
        Of a trajectory; even.
    extent : tuple of float
        How far x and y go, in units of the longer side: so a kernel is a circle, not an ellipse.
    radius : float
        Of the kernels, in that unit.
    kernel : tuple of int
        Hidden widths of the layers that make them.
    kernels, lowered : int
        How many kernels, and channels of the grid that they carry to the nodes.
    hidden, width, latent : int
        Channels of the grid, of the blocks at half its resolution, and of a latent.
    blocks : int
        Residual blocks at half resolution, each in encoder and decoder.
    """

    fields: int = 3
    cells: tuple[int, int] = (32, 8)
    frames: int = 24
    extent: tuple[float, float] = (1.0, 0.25625)
    radius: float = 0.065
    kernel: tuple[int, ...] = (64, 64)
    kernels: int = 12
    lowered: int = 8
    hidden: int = 24
    width: int = 64
    latent: int = 8
    blocks: int = 2

    def __post_init__(self) -> None:
        for name in ("cells", "extent", "kernel"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(n % 2 for n in (*self.cells, self.frames)):
            raise ValueError(
                f"cells and frames must be even, got {self.cells} and {self.frames}."
            )


class FrameAutoencoder(Pretrained, nn.Module):
    """Encode fields on a mesh over time into latents, each frame onto the grid by itself.

    Between frames the mesh stays, so one kernel of offsets serves all of them: a trajectory costs
    as many kernel evaluations as one frame. Convolutions run over space and time. The decoder is
    told how far each point is from the obstacle and the walls, and the velocity is zero there
    whatever the network says.

    Parameters
    ----------
    sizes : FrameConfig, optional
    scale : float
        What latents are multiplied by before they flow.
    """

    def __init__(self, sizes: FrameConfig | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.sizes = c = sizes or FrameConfig()
        hidden, coarse = c.hidden, ConvConfig(c.width, (1,), groups=8)
        fine = ConvConfig(hidden, (1,), groups=8)
        self.to_grid = OffsetTransform(c.radius, c.kernel, c.kernels)
        self.lift = nn.Linear(c.kernels * c.fields, hidden)
        self.encoder = nn.Sequential(
            convolution(3, hidden, c.width, 2, padding=0, stride=2),
            *(ResidualBlock(coarse, c.width, c.width) for _ in range(c.blocks)),
            nn.GroupNorm(8, c.width),
            nn.SiLU(),
            convolution(3, c.width, 2 * c.latent),
        )
        self.decoder = nn.Sequential(
            convolution(3, c.latent, c.width),
            *(ResidualBlock(coarse, c.width, c.width) for _ in range(c.blocks)),
            nn.ConvTranspose3d(c.width, hidden, 2, stride=2),
            ResidualBlock(fine, hidden, hidden),
        )
        self.lower = nn.Linear(hidden, c.lowered)
        self.to_points = OffsetTransform(c.radius, c.kernel, c.kernels)
        known = c.kernels * c.lowered + GEOMETRY * len(SCALES)
        self.head = PointMlp([known, 64, c.fields])
        self.grid: Tensor
        self.register_buffer("grid", lattice(c.cells, c.extent), persistent=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a codec from the configuration in ``config.json``."""
        sizes = config["sizes"]
        return cls(None if sizes is None else FrameConfig(**sizes), config["scale"])

    @property
    def extent(self) -> tuple[float, ...]:
        """How far x and y go in the units of the network."""
        return self.sizes.extent

    @property
    def frames(self) -> int | None:
        """Number of frames of a trajectory."""
        return self.sizes.frames

    def latent_shape(self, frames: int) -> tuple[int, int, int, int]:
        """Return channels and axes x, y, t of a latent."""
        c = self.sizes
        return (c.latent, c.cells[0] // 2, c.cells[1] // 2, frames // 2)

    def place(
        self, points: Float[Tensor, "n 2"], frames: int, geometry: Float[Tensor, "n 2"] | None
    ) -> Cloud:
        """Find what is near the nodes of a mesh; ``geometry`` holds :data:`GEOMETRY` distances."""
        return Cloud.of(points, self.grid, self.sizes.radius, geometry)

    def encode(self, fields: Float[Tensor, "n t k"], cloud: Cloud) -> Posterior:
        """Return the posterior over the latents of each mesh."""
        cells = self.grid.repeat(cloud.batch, 1)
        grid = self.lift(self.to_grid(cloud.points, cells, fields, cloud.to_grid))
        grid = grid.unflatten(0, (cloud.batch, *self.sizes.cells)).permute(0, 4, 1, 2, 3)
        return Posterior.of(self.encoder(grid.contiguous()))

    def decode(self, z: Float[Tensor, "b c x y t"], cloud: Cloud) -> Float[Tensor, "n t k"]:
        """Return the fields at the nodes, from latents that are not scaled."""
        cells = self.grid.repeat(cloud.batch, 1)
        grid = self.decoder(z).permute(0, 2, 3, 4, 1).flatten(0, 2)
        found = self.to_points(cells, cloud.points, self.lower(grid), cloud.to_points)
        assert cloud.geometry is not None
        near = torch.cat([torch.exp(-cloud.geometry / scale) for scale in SCALES], -1)
        out = self.head(torch.cat([found, near[:, None].expand(-1, found.shape[1], -1)], -1))
        # No slip: the velocity grows from zero with the distance from whatever is solid.
        solid = torch.tanh(cloud.geometry.amin(-1) / SCALES[0])[:, None, None]
        return torch.cat([out[..., :-1] * solid, out[..., -1:]], -1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the losses of an adversarial training are balanced."""
        return self.head.fcs[-1].weight
