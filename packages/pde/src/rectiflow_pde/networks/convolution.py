"""Convolutional halves of the autoencoders, in two or three dimensions.

Modules have the authors' names, which are those of latent diffusion (Rombach et al., CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

EPS = 1e-6


@dataclass(frozen=True)
class ConvConfig:
    """Sizes of an encoder and its decoder; the defaults are those of the released mesh networks.

    Parameters
    ----------
    hidden : int
        Channels of the finest level.
    multipliers : tuple of int
        Of the channels, by level; each level but the last halves all axes.
    blocks : int
        Residual blocks of a level; the decoder has one more.
    latent : int
        Channels of a latent.
    attention : tuple of int
        Levels that attend, besides the middle.
    groups : int
        Of the normalisations.
    dropout : float
        Inside residual blocks.
    condition : int
        Channels of a condition that all residual blocks are told; 0 if there is none.
    dims : int
        2 or 3.
    """

    hidden: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    latent: int = 16
    attention: tuple[int, ...] = (2,)
    groups: int = 16
    dropout: float = 0.0
    condition: int = 0
    dims: int = 3

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(width % self.groups for width in self.widths):
            raise ValueError(
                f"every level must have a multiple of {self.groups} channels, got {self.widths}."
            )

    @property
    def widths(self) -> list[int]:
        """Channels by level."""
        return [self.hidden * m for m in self.multipliers]

    @property
    def shrinks(self) -> int:
        """How many points of the grid, along an axis, become one of the latent."""
        return 2 ** (len(self.multipliers) - 1)


def convolution(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: Any = 3,
    padding: int | None = None,
    **options: Any,
) -> Any:
    """Return a convolution over two or three axes that keeps their lengths unless it strides."""
    kind = nn.Conv3d if dims == 3 else nn.Conv2d
    padding = kernel // 2 if padding is None else padding
    return kind(inputs, outputs, kernel, padding=padding, **options)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, with the condition added between them."""

    def __init__(self, c: ConvConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(c.groups, inputs, EPS)
        self.conv1 = convolution(c.dims, inputs, outputs)
        if c.condition:
            self.temb_proj = nn.Linear(c.condition, outputs)
        self.norm2 = nn.GroupNorm(c.groups, outputs, EPS)
        self.dropout = nn.Dropout(c.dropout)
        self.conv2 = convolution(c.dims, outputs, outputs)
        if inputs != outputs:
            self.nin_shortcut = convolution(c.dims, inputs, outputs, 1)

    def forward(
        self, x: Float[Tensor, "b c *g"], condition: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b d *g"]:
        """Return the block's output."""
        h = self.conv1(F.silu(self.norm1(x)))
        if condition is not None:
            told = self.temb_proj(F.silu(condition))
            h = h + told.reshape(*told.shape, *(1,) * (h.ndim - 2))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PointAttention(nn.Module):
    """Attention with one head between all points of a grid."""

    def __init__(self, c: ConvConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(c.groups, channels, EPS)
        self.q, self.k, self.v, self.proj_out = (
            convolution(c.dims, channels, channels, 1) for _ in range(4)
        )

    def forward(
        self, x: Float[Tensor, "b c *g"], condition: Tensor | None = None
    ) -> Float[Tensor, "b c *g"]:
        """Return the grid plus what its points attended to."""
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(attended.reshape(x.shape))


class Halve(nn.Module):
    """Halve every axis by a strided convolution, with a zero on the far side of each."""

    def __init__(self, c: ConvConfig, channels: int) -> None:
        super().__init__()
        self.conv = convolution(c.dims, channels, channels, stride=2, padding=0)
        self.pad = (0, 1) * c.dims

    def forward(self, x: Float[Tensor, "b c *g"]) -> Float[Tensor, "b c *h"]:
        """Return the smaller grid."""
        return self.conv(F.pad(x, self.pad))


class Double(nn.Module):
    """Double every axis by repetition, then a convolution."""

    def __init__(self, c: ConvConfig, channels: int) -> None:
        super().__init__()
        self.conv = convolution(c.dims, channels, channels)

    def forward(self, x: Float[Tensor, "b c *g"]) -> Float[Tensor, "b c *h"]:
        """Return the larger grid."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """What happens at one resolution; the change of it, if any, is added by the owner."""

    def __init__(self, c: ConvConfig, index: int, inputs: int, blocks: int) -> None:
        super().__init__()
        width = c.widths[index]
        sizes = [inputs, *[width] * (blocks - 1)]
        self.block: Any = nn.ModuleList(ResidualBlock(c, size, width) for size in sizes)
        attends = range(blocks if index in c.attention else 0)
        self.attn: Any = nn.ModuleList(PointAttention(c, width) for _ in attends)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Pass blocks, each with its attention, then the change of resolution."""
        for i, block in enumerate(self.block):
            h = block(h, condition)
            if len(self.attn):
                h = self.attn[i](h)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                h = getattr(self, name)(h)
        return h


class Middle(nn.Module):
    """Residual block, attention, residual block at the coarsest resolution."""

    def __init__(self, c: ConvConfig) -> None:
        super().__init__()
        width = c.widths[-1]
        self.block_1 = ResidualBlock(c, width, width)
        self.attn_1 = PointAttention(c, width)
        self.block_2 = ResidualBlock(c, width, width)

    def forward(self, h: Tensor, condition: Tensor | None) -> Tensor:
        """Pass all three."""
        return self.block_2(self.attn_1(self.block_1(h, condition)), condition)


class ConvEncoder(nn.Module):
    """Grid to latents, each level but the last half as fine.

    Parameters
    ----------
    c : ConvConfig
    inputs, outputs : int
        Channels of the grid, and of what comes out: twice the latent's for a posterior.
    """

    def __init__(self, c: ConvConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = convolution(c.dims, inputs, c.hidden)
        levels, width = [], c.hidden
        for i, wide in enumerate(c.widths):
            levels.append(Level(c, i, width, c.blocks))
            if i < len(c.widths) - 1:
                levels[-1].downsample = Halve(c, wide)
            width = wide
        self.down: Any = nn.ModuleList(levels)
        self.mid = Middle(c)
        self.norm_out = nn.GroupNorm(c.groups, width, EPS)
        self.conv_out = convolution(c.dims, width, outputs)

    def forward(
        self, x: Float[Tensor, "b c *g"], condition: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b d *h"]:
        """Return what the latents are made of."""
        h = self.conv_in(x)
        for level in self.down:
            h = level(h, condition)
        return self.conv_out(F.silu(self.norm_out(self.mid(h, condition))))


class ConvDecoder(nn.Module):
    """Latents to a grid; the mirror of :class:`ConvEncoder` with one block more a level."""

    def __init__(self, c: ConvConfig, outputs: int) -> None:
        super().__init__()
        width = c.widths[-1]
        self.conv_in = convolution(c.dims, c.latent, width)
        self.mid = Middle(c)
        levels: list[Any] = [None] * len(c.widths)
        for i, wide in reversed(list(enumerate(c.widths))):
            levels[i] = Level(c, i, width, c.blocks + 1)
            if i:
                levels[i].upsample = Double(c, wide)
            width = wide
        self.up: Any = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(c.groups, width, EPS)
        self.conv_out = convolution(c.dims, width, outputs)

    def forward(
        self, z: Float[Tensor, "b c *h"], condition: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b d *g"]:
        """Return the grid."""
        h = self.mid(self.conv_in(z), condition)
        for level in reversed(self.up):
            h = level(h, condition)
        return self.conv_out(F.silu(self.norm_out(h)))


def attending_levels(resolution: int | Sequence[int], levels: int, at: Sequence[int]) -> list[int]:
    """Return the levels whose last axis has one of the lengths at which the authors attend."""
    last = resolution if isinstance(resolution, int) else resolution[-1]
    return [i for i in range(levels) if last // 2**i in at]
