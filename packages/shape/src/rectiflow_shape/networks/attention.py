"""Attention and blocks that the autoencoder and the flow of TripoSG share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

RMS_EPS = 1e-6


class Norm(nn.LayerNorm):
    """Layer norm in float32 whatever the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Multi-head attention by the fused kernels of torch; heads split plainly.

    The official modules mix the rows of their projections between heads;
    :mod:`rectiflow_shape.weights` undoes that once when it loads them.

    Parameters
    ----------
    width, heads : int
        Of the queries and the output.
    context : int, optional
        Width of what is attended to, for cross-attention; self-attention if absent.
    qk_norm : bool
        RMS norms on queries and keys of each head.
    context_norm : bool
        A layer norm on the context.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context: int | None = None,
        *,
        qk_norm: bool = False,
        context_norm: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads for width {width}.")
        self.heads, depth = heads, width // heads
        if context is None:
            self.qkv = nn.Linear(width, 3 * width, bias=False)
        else:
            self.q = nn.Linear(width, width, bias=False)
            self.kv = nn.Linear(context, 2 * width, bias=False)
        self.norm_q = nn.RMSNorm(depth, eps=RMS_EPS) if qk_norm else None
        self.norm_k = nn.RMSNorm(depth, eps=RMS_EPS) if qk_norm else None
        self.norm_cross = Norm(context) if context_norm and context else None
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n w"], context: Float[Tensor, "b m c"] | None = None
    ) -> Float[Tensor, "b n w"]:
        """Attend to the context, or to the tokens themselves."""
        if context is not None:
            return self.attend(x, *self.keys(context))
        q, k, v = self._split(self.qkv(x), 3)
        return self._mix(q, k if self.norm_k is None else self.norm_k(k).to(v.dtype), v)

    def keys(self, context: Float[Tensor, "b m c"]) -> tuple[Tensor, Tensor]:
        """Return keys and values (b, heads, m, d) of a context, to be used again."""
        context = context if self.norm_cross is None else self.norm_cross(context)
        k, v = self._split(self.kv(context), 2)
        return (k if self.norm_k is None else self.norm_k(k).to(v.dtype)), v

    def attend(self, x: Float[Tensor, "b n w"], k: Tensor, v: Tensor) -> Float[Tensor, "b n w"]:
        """Attend to what :meth:`keys` returned."""
        [q] = self._split(self.q(x), 1)
        return self._mix(q, k, v)

    def _split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        split = x.unflatten(-1, (parts, self.heads, -1)).transpose(1, 3)
        return split.unbind(2)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q if self.norm_q is None else self.norm_q(q).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm transformer block of TripoSG; each of its parts but the last is optional.

    Parameters
    ----------
    width, heads : int
    self_attention : bool
        Attend to the tokens themselves.
    contexts : tuple of int
        Widths of up to two contexts, attended to side by side.
    qk_norm, context_norm : bool
        As for :class:`Attention`.
    skip : bool
        Take in the output of an earlier block first.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        self_attention: bool = True,
        contexts: tuple[int, ...] = (),
        qk_norm: bool = False,
        context_norm: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * width, width) if skip else None
        self.skip_norm = Norm(width) if skip else None
        self.norm1 = Norm(width) if self_attention else None
        self.attn1 = Attention(width, heads, qk_norm=qk_norm) if self_attention else None
        for name, context in zip(("2", "2_2"), contexts, strict=False):
            attention = Attention(width, heads, context, qk_norm=qk_norm, context_norm=context_norm)
            self.add_module(f"norm{name}", Norm(width))
            self.add_module(f"attn{name}", attention)
        self.crossed = ("2", "2_2")[: len(contexts)]
        self.norm3 = Norm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(
        self,
        x: Float[Tensor, "b n w"],
        contexts: tuple[Tensor | tuple[Tensor, Tensor], ...] = (),
        *,
        scales: tuple[float, ...] = (1.0, 1.0),
        skip: Float[Tensor, "b n w"] | None = None,
    ) -> Float[Tensor, "b n w"]:
        """Return the tokens after the block.

        Parameters
        ----------
        x : Tensor
        contexts : tuple
            Tensors (b, m, c), or what :meth:`Attention.keys` made of them.
        scales : tuple of float
            What the attention to each context is multiplied by.
        skip : Tensor, optional
            Output of an earlier block.
        """
        if self.skip_linear is not None and self.skip_norm is not None and skip is not None:
            x = self.skip_norm(self.skip_linear(torch.cat([skip, x], dim=-1)))
        if self.attn1 is not None and self.norm1 is not None:
            x = x + self.attn1(self.norm1(x))
        seen = [
            scale * self._cross(name, x, context)
            for name, context, scale in zip(self.crossed, contexts, scales, strict=False)
        ]
        for part in seen:
            x = x + part
        return x + self.ff(self.norm3(x))

    def _cross(self, name: str, x: Tensor, context: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        attention: Attention = getattr(self, f"attn{name}")
        k, v = context if isinstance(context, tuple) else attention.keys(context)
        return attention.attend(getattr(self, f"norm{name}")(x), k, v)
