"""First frames as tokens that a flow attends to: on a mesh, or on a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.networks.autoencoder import conv_from_official, transform_from_official
from rectiflow_pde.networks.convolution import ConvConfig, ConvEncoder
from rectiflow_pde.networks.integral import lattice
from rectiflow_pde.networks.transforms import Cloud, ToGrid, TransformConfig

if TYPE_CHECKING:
    from jaxtyping import Float

WAVES = 256
"""Channels of a number told by waves."""


@dataclass(frozen=True)
class MeshFrameConfig:
    """Sizes of the conditioner of meshes; the defaults are the released ones (25.3 M)."""

    fields: int = 3
    cells: int = 32
    tokens: int = 128
    transform: TransformConfig = field(
        default_factory=lambda: TransformConfig(0.05, 32, (128, 128, 128), "nonlinear")
    )
    conv: ConvConfig = field(default_factory=lambda: ConvConfig(hidden=128, latent=128, dims=2))

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from the authors' ``out_dim`` and ``encoder``."""
        known = config["encoder"]
        sizes = transform_from_official(known), conv_from_official(known, 2)
        return cls(known["in_channels"], known["resolution"], config["out_dim"], *sizes)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Rebuild from plain data."""
        parts = {"transform": TransformConfig(**told["transform"])}
        return cls(**{**told, **parts, "conv": ConvConfig(**told["conv"])})


class _FrameEncoder(nn.Module):
    def __init__(self, c: MeshFrameConfig) -> None:
        super().__init__()
        self.gino_encoder = ToGrid(c.transform, 2, c.fields, c.conv.hidden)
        self.cnn_encoder = ConvEncoder(c.conv, c.conv.hidden, c.conv.latent)


class MeshFrameConditioner(Pretrained, nn.Module):
    """Turn the fields of one frame on a mesh into tokens.

    Parameters
    ----------
    sizes : MeshFrameConfig, optional
        The released sizes if absent.

    References
    ----------
    Zhou et al., Text2PDE (arXiv 2410.01153).
    """

    def __init__(self, sizes: MeshFrameConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or MeshFrameConfig()
        self.encoder = _FrameEncoder(c)
        self.head = nn.Linear(c.conv.latent, c.tokens)
        self.grid: Tensor
        self.register_buffer("grid", lattice((c.cells, c.cells)), persistent=False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a conditioner from the configuration in ``config.json``."""
        sizes = config["sizes"]
        return cls(None if sizes is None else MeshFrameConfig.from_json(sizes))

    def place(self, points: Float[Tensor, "n 2"]) -> Cloud:
        """Find what is near the nodes of one mesh."""
        return Cloud.of(points, self.grid, self.sizes.transform.radius)

    def to_grid(self, values: Float[Tensor, "n k"], cloud: Cloud) -> Float[Tensor, "b c x y"]:
        """Return the frame averaged onto the grid, before any convolution."""
        averaged = self.encoder.gino_encoder(values, cloud, self.grid)
        return averaged.unflatten(1, (self.sizes.cells,) * 2).movedim(-1, 1)

    def forward(self, values: Float[Tensor, "n k"], cloud: Cloud) -> Float[Tensor, "b m c"]:
        """Return the tokens of each mesh, those of one x after each other."""
        h = self.encoder.cnn_encoder(self.to_grid(values, cloud))
        return self.head(h.flatten(2).transpose(1, 2))


@dataclass(frozen=True)
class GridFrameConfig:
    """Sizes of the conditioner of grids; the defaults are those for smoke (39.4 M)."""

    fields: int = 3
    tokens: int = 512
    conv: ConvConfig = field(
        default_factory=lambda: ConvConfig(128, (1, 2, 4, 4), 2, 512, (3,), condition=128, dims=2)
    )

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from the authors' ``out_dim`` and ``encoder``."""
        known = config["encoder"]
        return cls(known["in_channels"], config["out_dim"], conv_from_official(known, 2))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Rebuild from plain data."""
        return cls(told["fields"], told["tokens"], ConvConfig(**told["conv"]))


class GridFrameConditioner(Pretrained, nn.Module):
    """Turn one frame on a grid into tokens, told a number.

    Parameters
    ----------
    sizes : GridFrameConfig, optional
        The released sizes if absent.
    """

    def __init__(self, sizes: GridFrameConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or GridFrameConfig()
        self.fourier_emb = NumberEmbedding(c.conv.condition)
        self.encoder = ConvEncoder(c.conv, c.fields, c.conv.latent)
        self.head = nn.Linear(c.conv.latent, c.tokens)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a conditioner from the configuration in ``config.json``."""
        sizes = config["sizes"]
        return cls(None if sizes is None else GridFrameConfig.from_json(sizes))

    def forward(
        self, x: Float[Tensor, "b k x y"], condition: Float[Tensor, "b 1"]
    ) -> Float[Tensor, "b m c"]:
        """Return the tokens, those of one x after each other."""
        h = self.encoder(x, self.fourier_emb(condition[:, 0]))
        return self.head(h.flatten(2).transpose(1, 2))


class NumberEmbedding(nn.Module):
    """Embed a number by waves of periods up to 10,000 and two layers.

    Parameters
    ----------
    channels : int
        Out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        linear = nn.Linear(WAVES, channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(linear[0], nn.SiLU(), linear[1])

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b c"]:
        """Return the embedded numbers."""
        weight: Any = self.mlp[0].weight
        half = WAVES // 2
        steps = torch.arange(half, device=t.device, dtype=torch.float32)
        rates = torch.exp(-math.log(10_000) * steps / half)
        angles = t.float()[:, None] * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1).to(weight))
