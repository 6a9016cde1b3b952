"""Autoencoders of flows: fields on a mesh, or on a grid, to latents of space and time and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.networks.convolution import (
    ConvConfig,
    ConvDecoder,
    ConvEncoder,
    attending_levels,
)
from rectiflow_pde.networks.integral import lattice
from rectiflow_pde.networks.transforms import Cloud, ToGrid, ToPoints, TransformConfig

if TYPE_CHECKING:
    from jaxtyping import Float

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Gaussian over latents, ``mean`` and ``logvar (b, c, *grid)``; the latter in [-30, 20]."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def of(cls, moments: Float[Tensor, "b c2 *g"]) -> Posterior:
        """Split what an encoder returns."""
        mean, logvar = moments.chunk(2, 1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents."""
        noise = torch.randn(
            self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Return the divergence from the unit Gaussian, summed over each sample."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


@dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh autoencoder; the defaults are the released ones (42.1 M parameters).

    Parameters
    ----------
    fields : int
        Channels of the function.
    cells : int
        Of the grid along each of x, y and t.
    transform : TransformConfig
    conv : ConvConfig
    """

    fields: int = 3
    cells: int = 64
    transform: TransformConfig = field(default_factory=TransformConfig)
    conv: ConvConfig = field(default_factory=ConvConfig)

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from ``encoder`` and ``latent_grid_size`` of the authors' configuration."""
        known = config["encoder"]
        return cls(
            fields=known["in_channels"],
            cells=config["latent_grid_size"],
            transform=transform_from_official(known),
            conv=conv_from_official(known, 3),
        )

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Rebuild from plain data."""
        parts = {"transform": TransformConfig(**told["transform"])}
        return cls(**{**told, **parts, "conv": ConvConfig(**told["conv"])})


def transform_from_official(known: Mapping[str, Any]) -> TransformConfig:
    """Read the sizes of a kernel integral from the authors' arguments."""
    names = ("gno_radius", "gno_coord_embed_dim", "gno_mlp_hidden_layers", "gno_transform_type")
    radius, embedding, kernel, kind = (known[name] for name in names)
    return TransformConfig(radius, embedding, tuple(kernel), kind)


def conv_from_official(known: Mapping[str, Any], dims: int) -> ConvConfig:
    """Read the sizes of a convolutional half from the authors' arguments."""
    levels = len(known["ch_mult"])
    attention = attending_levels(known["resolution"], levels, known["attn_resolutions"])
    return ConvConfig(
        hidden=known["hidden_channels"],
        multipliers=tuple(known["ch_mult"]),
        blocks=known["num_res_blocks"],
        latent=known["z_channels"],
        attention=tuple(attention),
        dropout=known["dropout"],
        condition=known.get("cond_channels", 0),
        dims=dims,
    )


class _MeshEncoder(nn.Module):
    def __init__(self, c: MeshConfig) -> None:
        super().__init__()
        self.gino_encoder = ToGrid(c.transform, 3, c.fields, c.conv.hidden)
        self.cnn_encoder = ConvEncoder(c.conv, c.conv.hidden, 2 * c.conv.latent)


class _MeshDecoder(nn.Module):
    def __init__(self, c: MeshConfig) -> None:
        super().__init__()
        self.gino_decoder = ToPoints(c.transform, 3, c.conv.hidden, c.fields)
        self.cnn_decoder = ConvDecoder(c.conv, c.conv.hidden)


class MeshAutoencoder(Pretrained, nn.Module):
    """Encode fields on a mesh over time into latents on a grid of x, y and t, and decode them.

    Positions and time are normalised to [0, 1]. Any points may be decoded, not only those that
    were encoded.

    Parameters
    ----------
    sizes : MeshConfig, optional
        The released sizes if absent.
    scale : float
        What latents are multiplied by before they flow.

    References
    ----------
    Zhou et al., "Text2PDE: Latent Diffusion Models for Accessible Physics Simulation"
    (arXiv 2410.01153).
    """

    def __init__(self, sizes: MeshConfig | None = None, scale: float = 0.2) -> None:
        super().__init__()
        self.sizes = c = sizes or MeshConfig()
        self.encoder, self.decoder = _MeshEncoder(c), _MeshDecoder(c)
        self.latent_grid: Tensor
        grid = lattice((c.cells,) * 3).reshape(1, *(c.cells,) * 3, 3)
        self.register_buffer("latent_grid", grid)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an autoencoder from the configuration in ``config.json``."""
        sizes = config["sizes"]
        return cls(None if sizes is None else MeshConfig.from_json(sizes), config["scale"])

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels and axes x, y, t of a latent."""
        c = self.sizes
        side = c.cells // c.conv.shrinks
        return (c.conv.latent, side, side, side)

    def place(self, points: Float[Tensor, "n 2"], frames: int) -> Cloud:
        """Find what is near the nodes of a mesh in each of some frames, spread evenly."""
        times = torch.linspace(0, 1, frames, dtype=points.dtype)
        spread = [points[:, None].expand(-1, frames, -1), times[:, None].expand(len(points), -1, 1)]
        return self.cloud(torch.cat(spread, -1).flatten(0, 1))

    def cloud(self, points: Float[Tensor, "n 3"]) -> Cloud:
        """Find what is near the points of one mesh, each of them a place and a time."""
        return Cloud.of(points, self.latent_grid.flatten(0, -2), self.sizes.transform.radius)

    def encode(self, fields: Float[Tensor, "n t k"], cloud: Cloud) -> Posterior:
        """Return the posterior over the latents of each mesh."""
        return self.encode_points(fields.flatten(0, 1), cloud)

    def decode(self, z: Float[Tensor, "b c *g"], cloud: Cloud) -> Float[Tensor, "n t k"]:
        """Return the fields at the nodes, from latents that are not scaled."""
        first = cloud.points[: cloud.sizes[0], :2]
        frames = int((first == first[0]).all(1).sum())
        return self.decode_points(z, cloud).unflatten(0, (-1, frames))

    def encode_points(self, values: Float[Tensor, "n k"], cloud: Cloud) -> Posterior:
        """Return the posterior of values at places and times."""
        return Posterior.of(self.encoder.cnn_encoder(self.to_grid(values, cloud)))

    def to_grid(self, values: Float[Tensor, "n k"], cloud: Cloud) -> Float[Tensor, "b c x y t"]:
        """Return the values averaged onto the grid, before any convolution."""
        grid = self.latent_grid.flatten(0, -2)
        averaged = self.encoder.gino_encoder(values, cloud, grid)
        return averaged.unflatten(1, self.latent_grid.shape[1:-1]).movedim(-1, 1)

    def decode_points(self, z: Float[Tensor, "b c *g"], cloud: Cloud) -> Float[Tensor, "n k"]:
        """Return the fields at places and times."""
        grids = self.decoder.cnn_decoder(z).flatten(2).transpose(1, 2)
        return self.decoder.gino_decoder(grids, cloud, self.latent_grid.flatten(0, -2))

    @property
    def last_layer(self) -> nn.Parameter:
        """Where the losses of an adversarial training are balanced."""
        weight: Any = self.decoder.gino_decoder.projection.fcs[0].weight
        return weight


@dataclass(frozen=True)
class GridConfig:
    """Sizes of the grid autoencoder; the defaults are those for smoke (63.1 M parameters)."""

    fields: int = 3
    conv: ConvConfig = field(
        default_factory=lambda: ConvConfig(multipliers=(1, 2, 4, 4), attention=(3,), condition=1)
    )

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from ``encoder`` of the authors' configuration."""
        known = config["encoder"]
        return cls(known["in_channels"], conv_from_official(known, 3))

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Rebuild from plain data."""
        return cls(told["fields"], ConvConfig(**told["conv"]))


class GridAutoencoder(Pretrained, nn.Module):
    """Encode fields on a regular grid over time, and decode them, both told a number.

    Parameters
    ----------
    sizes : GridConfig, optional
        The released sizes if absent.
    scale : float
        What latents are multiplied by before they flow.

    References
    ----------
    As for :class:`MeshAutoencoder`; the number is the normalised buoyancy of the smoke data.
    """

    def __init__(self, sizes: GridConfig | None = None, scale: float = 0.2) -> None:
        super().__init__()
        self.sizes = c = sizes or GridConfig()
        self.encoder = ConvEncoder(c.conv, c.fields, 2 * c.conv.latent)
        self.decoder = ConvDecoder(c.conv, c.fields)
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(float(scale)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an autoencoder from the configuration in ``config.json``."""
        sizes = config["sizes"]
        return cls(None if sizes is None else GridConfig.from_json(sizes), config["scale"])

    def encode(self, x: Float[Tensor, "b k t x y"], condition: Float[Tensor, "b 1"]) -> Posterior:
        """Return the posterior over latents."""
        return Posterior.of(self.encoder(x, condition))

    def decode(
        self, z: Float[Tensor, "b c *g"], condition: Float[Tensor, "b 1"]
    ) -> Float[Tensor, "b k t x y"]:
        """Return the fields, from latents that are not scaled."""
        return self.decoder(z, condition)
