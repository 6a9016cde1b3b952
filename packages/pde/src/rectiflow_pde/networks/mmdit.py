"""SD3's block: latents and what they are told are two streams that attend to each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

EPS = 1e-6


class Stream(nn.Module):
    """What one stream of a block has of its own: modulation, projections, features.

    Parameters
    ----------
    width, heads : int
    mlp_ratio : float
        Hidden width over width.
    is_last : bool
        Whether nothing reads the stream after the block: then it has keys and values only to give.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, is_last: bool = False) -> None:
        super().__init__()
        self.heads, self.is_last = heads, is_last
        self.modulation = nn.Linear(width, (2 if is_last else 6) * width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = (nn.RMSNorm(width // heads, eps=EPS) for _ in "qk")
        if not is_last:
            hidden = round(width * mlp_ratio)
            self.proj = nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def parts(self, x: Tensor, told: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the modulation, and queries, keys and values ``(3, b, heads, n, d)``."""
        modulation = list(
            self.modulation(F.silu(told))[:, None].chunk(2 if self.is_last else 6, -1)
        )
        h = _modulated(x, *modulation[:2])
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return modulation, torch.stack([self.norm_q(q), self.norm_k(k), v])

    def finish(self, x: Tensor, attended: Tensor, modulation: list[Tensor]) -> Tensor:
        """Return the stream after the block, given what it attended to."""
        if self.is_last:
            return x
        _, _, gate, shift, scale, gate_mlp = modulation
        x = x + gate * self.proj(attended)
        h = F.gelu(self.fc1(_modulated(x, shift, scale)), approximate="tanh")
        return x + gate_mlp * self.fc2(h)


class JointBlock(nn.Module):
    """The MM-DiT block: weights apart, one attention over both streams.

    Parameters
    ----------
    width, heads : int
    mlp_ratio : float
    is_last : bool
        Whether it is the last of a network, which reads the latents alone.

    References
    ----------
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"
    (ICML 2024), Figure 2b; queries and keys are normalised as in section 5.3.2.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, *, is_last: bool = False
    ) -> None:
        super().__init__()
        self.latents = Stream(width, heads, mlp_ratio)
        self.context = Stream(width, heads, mlp_ratio, is_last)

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b m c"],
        told: Float[Tensor, "b c"],
        mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b m c"]]:
        """Return both streams after the block.

        Parameters
        ----------
        x, context : Tensor
        told : Tensor
            What modulates both, before its activation.
        mask : Tensor, shape (b, 1 or n + m, n + m), optional
            True where attention goes; latents first, in queries and keys.
        """
        modulation, own = self.latents.parts(x, told)
        modulation_c, other = self.context.parts(context, told)
        q, k, v = torch.cat([own, other], 3)
        kept = None if mask is None else mask[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=kept)
        here, there = attended.transpose(1, 2).flatten(2).split([x.shape[1], context.shape[1]], 1)
        return self.latents.finish(x, here, modulation), self.context.finish(
            context, there, modulation_c
        )


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS) * (1 + scale) + shift
