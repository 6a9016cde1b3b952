"""Parts that the autoencoder and the UNet are made of, with the tensor names of ``diffusers``.

Everything works in any memory format and is fastest in ``channels_last``, in which pixels are rows
of channels and a transformer's tokens are a view of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions after normalisations, beside a shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    groups : int
        Of the normalisations.
    eps : float
        Of the normalisations.
    time_channels : int, optional
        Width of an embedding of time that is added between the convolutions.
    """

    def __init__(
        self, inputs: int, outputs: int, groups: int, eps: float, time_channels: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Return the block's output; ``time`` is an embedding after its activation."""
        h = self.conv1(activate(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(activate(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Halve(nn.Module):
    """Halve height and width by a strided 3x3 convolution.

    Parameters
    ----------
    channels : int
        In and out.
    is_centred : bool
        Pad by a zero on all sides; else at the right and at the bottom only.
    """

    def __init__(self, channels: int, *, is_centred: bool) -> None:
        super().__init__()
        self.is_centred = is_centred
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if is_centred else 0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
        """Return the smaller picture."""
        return self.conv(x if self.is_centred else F.pad(x, (0, 1, 0, 1)))


class Double(nn.Module):
    """Double height and width by repetition, then a 3x3 convolution of ``channels``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
        """Return the larger picture."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """What happens at one resolution: lists of parts, called by the network that holds them.

    Parameters
    ----------
    resnets, attentions : list of Module
        Residual blocks, and the attention after them, if any.
    downsamplers, upsamplers : Module, optional
        The change of resolution at the end.
    """

    def __init__(
        self,
        resnets: list[ResidualBlock],
        attentions: list[nn.Module],
        *,
        downsampler: Halve | None = None,
        upsampler: Double | None = None,
    ) -> None:
        super().__init__()
        self.resnets: Any = nn.ModuleList(resnets)
        self.attentions: Any = nn.ModuleList(attentions)
        self.downsamplers: Any = nn.ModuleList([downsampler] if downsampler else [])
        self.upsamplers: Any = nn.ModuleList([upsampler] if upsampler else [])


class PixelAttention(nn.Module):
    """Attention between all pixels with one head, of the autoencoder.

    Parameters
    ----------
    channels, groups : int
        In and out, and of the normalisation.
    eps : float
        Of the normalisation.
    """

    def __init__(self, channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the picture plus what its pixels attended to."""
        tokens = to_tokens(self.group_norm(x))
        attended = F.scaled_dot_product_attention(
            self.to_q(tokens)[:, None], self.to_k(tokens)[:, None], self.to_v(tokens)[:, None]
        )[:, 0]
        return x + to_picture(self.to_out[0](attended), x)


class HeadedAttention(nn.Module):
    """Attention with several heads, of tokens to themselves or to a context.

    Parameters
    ----------
    channels, heads : int
        Of the tokens.
    context_channels : int, optional
        Of the context; as many as the tokens have if absent.
    """

    def __init__(self, channels: int, heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        inner = channels // heads * heads
        source = context_channels or channels
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, channels)])

    def keys_and_values(
        self, context: Float[Tensor, "b n d"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c"]]:
        """Return what queries are compared with and what they get."""
        return self.to_k(context), self.to_v(context)

    def forward(
        self,
        x: Float[Tensor, "b m c"],
        keys: Float[Tensor, "b n c"],
        values: Float[Tensor, "b n c"],
        bias: Float[Tensor, "b 1 1 n"] | None = None,
    ) -> Float[Tensor, "b m c"]:
        """Return what each token attended to; ``bias`` is added to the scores."""
        q, k, v = (
            t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(x), keys, values)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    """``a · gelu(b)``, where a and b are the halves of a linear map of the input."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
        """Return the gated features."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated features four times as wide, and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The identity stands where diffusers has a dropout: names count on it.
        self.net = nn.ModuleList(
            [GatedGelu(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)]
        )

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Return the mapped tokens."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """Attention of the tokens to themselves, attention to the text or again themselves, features.

    Parameters
    ----------
    channels, heads : int
        Of the tokens.
    context_channels : int, optional
        Of the text; without it, the second attention is of the tokens to themselves.
    """

    def __init__(self, channels: int, heads: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = HeadedAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = HeadedAttention(channels, heads, context_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(
        self,
        x: Float[Tensor, "b m c"],
        text: tuple[Tensor, Tensor] | None,
        bias: Float[Tensor, "b 1 1 n"] | None,
    ) -> Float[Tensor, "b m c"]:
        """Return the tokens; ``text`` holds the keys and values of the second attention."""
        tokens = self.norm1(x)
        x = x + self.attn1(tokens, *self.attn1.keys_and_values(tokens))
        tokens = self.norm2(x)
        if text is None:
            x = x + self.attn2(tokens, *self.attn2.keys_and_values(tokens))
        else:
            x = x + self.attn2(tokens, *text, bias)
        return x + self.ff(self.norm3(x))


class PictureTransformer(nn.Module):
    """Transformer over the pixels of a picture, beside a shortcut; positions are not told.

    Parameters
    ----------
    channels, heads, groups : int
        Of the picture, of attention, of the normalisation.
    depth : int
        Number of blocks.
    context_channels : int, optional
        Of the text, if its blocks are to attend to it.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        groups: int,
        depth: int,
        context_channels: int | None = None,
    ) -> None:
        super().__init__()
        inner = channels // heads * heads
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, inner, 1)
        self.transformer_blocks: Any = nn.ModuleList(
            TransformerBlock(inner, heads, context_channels) for _ in range(depth)
        )
        self.proj_out = nn.Conv2d(inner, channels, 1)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        text: list[tuple[Tensor, Tensor]] | None = None,
        bias: Float[Tensor, "b 1 1 n"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the picture; ``text`` holds keys and values for each block."""
        tokens = pointwise(self.proj_in, to_tokens(self.norm(x)))
        for i, block in enumerate(self.transformer_blocks):
            tokens = block(tokens, None if text is None else text[i], bias)
        return x + to_picture(pointwise(self.proj_out, tokens), x)


def activate(x: Tensor) -> Tensor:
    """Return ``x sigmoid(x)``, in place of x where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def pointwise(conv: nn.Conv2d, tokens: Float[Tensor, "b n c"]) -> Float[Tensor, "b n d"]:
    """Apply a 1x1 convolution to tokens."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


def to_tokens(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h*w c"]:
    """Return the pixels as rows, row by row of the picture."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_picture(
    tokens: Float[Tensor, "b h*w c"], like: Float[Tensor, "b d h w"]
) -> Float[Tensor, "b c h w"]:
    """Return tokens as a picture of the size of another."""
    return tokens.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)


def check_groups(groups: int, channels: int, multipliers: Sequence[int]) -> None:
    """Refuse widths that cannot be normalised by groups; the authors' classes have 32.

    Raises
    ------
    ValueError
        When a width is not a multiple of the groups.
    """
    widths = [channels * multiplier for multiplier in multipliers]
    if groups < 1 or not widths or any(width < 1 or width % groups for width in widths):
        raise ValueError(
            f"every level must have a multiple of {groups} channels, got {widths}; expected "
            "whole groups for the normalisations. Choose other channels or multipliers."
        )
