"""TripoSG's flow network: a transformer over latent tokens with long skips."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rectiflow import Pretrained
from torch import Tensor, nn

from rectiflow_shape.networks.attention import Block, Norm

if TYPE_CHECKING:
    from jaxtyping import Float

LEVELS = 1000
"""Of the official clock, which is 0 at the data and this at the noise."""


def sinusoid(t: Float[Tensor, " b"], width: int) -> Float[Tensor, "b w"]:
    """Return sines, then cosines, of a time at ``width / 2`` frequencies from 1 to 1/10000."""
    half = width // 2
    powers = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * powers)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TimeToken(nn.Module):
    """Two layers that make a token of a time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, width)

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        """Embed times of the official clock."""
        embedded = sinusoid(t, self.width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.gelu(self.linear_1(embedded)))


class TripoSGDiT(Pretrained, nn.Module):
    """The velocity of latent tokens ``(b, n, c)`` under a condition.

    Parameters
    ----------
    in_channels : int
        Of the latents.
    width, heads, layers : int
        An odd number of blocks: the second half takes in the outputs of the first, last in first
        out.
    context : int
        Width of the condition's states: image features, or a text's.
    context_2 : int, optional
        Of a second condition, as in the released scribble model.

    References
    ----------
    Li et al., "TripoSG" (arXiv 2502.06608).
    """

    def __init__(
        self,
        in_channels: int = 64,
        width: int = 2048,
        heads: int = 16,
        layers: int = 21,
        context: int = 1024,
        context_2: int | None = None,
    ) -> None:
        super().__init__()
        if layers % 2 == 0:
            raise ValueError(f"layers must be odd, a middle between two halves, got {layers}.")
        self.in_channels = in_channels
        self.time_proj = TimeToken(width)
        self.proj_in = nn.Linear(in_channels, width)
        contexts = (context,) if context_2 is None else (context, context_2)
        self.blocks = nn.ModuleList(
            Block(width, heads, contexts=contexts, qk_norm=True, skip=i > layers // 2)
            for i in range(layers)
        )
        self.norm_out = Norm(width)
        self.proj_out = nn.Linear(width, in_channels)

    def forward(
        self, x: Float[Tensor, "b n c"], t: Float[Tensor, " b"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b n c"]:
        """Return the velocity at our time, 0 at the noise and 1 at the data.

        ``cond`` holds ``context (b, m, d)``, and ``context_2`` where the network has a second one.
        """
        contexts = [cond[name] for name in ("context", "context_2") if name in cond]
        return self.at(x, LEVELS * (1 - t), *contexts)

    def at(
        self,
        x: Float[Tensor, "b n c"],
        level: Float[Tensor, " b"],
        *contexts: Float[Tensor, "b m d"],
        scales: tuple[float, ...] = (1.0, 1.0),
    ) -> Float[Tensor, "b n c"]:
        """Return the velocity at a time of the official clock, ``1000 (1 - t)``.

        ``scales`` multiply the attention to each condition.
        """
        token = self.time_proj(level).to(x.dtype)
        h = torch.cat([token[:, None], self.proj_in(x)], dim=1)
        middle = len(self.blocks) // 2
        kept: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            h = block(h, contexts, scales=scales, skip=kept.pop() if i > middle else None)
            if i < middle:
                kept.append(h)
        return self.proj_out(self.norm_out(h)[:, 1:])
