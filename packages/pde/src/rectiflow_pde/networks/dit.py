"""The diffusion transformer of latents in space and time, with tokens to attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.networks.conditioner import NumberEmbedding
from rectiflow_pde.networks.convolution import convolution
from rectiflow_pde.networks.mmdit import JointBlock, Stream

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

EPS = 1e-6


@dataclass(frozen=True)
class DitConfig:
    """Sizes of the transformer; the defaults are those of the cylinder S (130.4 M parameters).

    Parameters
    ----------
    grid, patch : tuple of int
        Points of a latent along its axes, and of a token.
    channels : int
        Of a latent.
    told : int
        Further channels that stand beside the latent at each point; ours, 0 in released networks.
    width, depth, heads : int
    context : int
        Channels of the tokens that are attended to.
    mlp_ratio : float
        Hidden width over width.
    joint : bool
        Whether the tokens are a stream of their own, as in SD3, that latents attend to and that
        attends to them; ours.
    """

    grid: tuple[int, ...] = (16, 16, 16)
    patch: tuple[int, ...] = (2, 2, 2)
    channels: int = 16
    told: int = 0
    width: int = 512
    depth: int = 24
    heads: int = 16
    context: int = 128
    mlp_ratio: float = 4.0
    joint: bool = False

    def __post_init__(self) -> None:
        for name in ("grid", "patch"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if any(n % p for n, p in zip(self.grid, self.patch, strict=True)):
            raise ValueError(f"patches of {self.patch} do not fill a grid of {self.grid}.")
        if self.width % self.heads or self.width % 2:
            raise ValueError(
                f"width must be even and a multiple of heads, got {self.width} and {self.heads}."
            )

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from the authors' arguments."""
        return cls(
            grid=tuple(config["input_size"]),
            patch=tuple(config["patch_size"]),
            channels=config["in_channels"],
            width=config["hidden_size"],
            depth=config["depth"],
            heads=config["num_heads"],
            context=config["context_dim"],
            mlp_ratio=config.get("mlp_ratio", 4.0),
        )

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens along each axis."""
        return tuple(n // p for n, p in zip(self.grid, self.patch, strict=True))


class SelfAttention(nn.Module):
    """Attention of tokens to each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Return what each token attended to."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of tokens to a context."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        context: Float[Tensor, "b m k"],
        mask: Bool[Tensor, "b m"] | None,
    ) -> Float[Tensor, "b n c"]:
        """Return what each token attended to, of those that the mask leaves."""
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        kept = None if mask is None else mask[:, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=kept)
        return self.to_out[0](attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Modulated self-attention, attention to the context, modulated features."""

    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(c.width, c.heads)
        self.cross_attn = CrossAttention(c.width, c.heads, c.context)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(c.width, round(c.width * c.mlp_ratio)),
             "fc2": nn.Linear(round(c.width * c.mlp_ratio), c.width)}
        )  # fmt: skip
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c.width, 6 * c.width))

    def forward(
        self, x: Tensor, told: Float[Tensor, "b c"], context: Tensor, mask: Tensor | None
    ) -> Float[Tensor, "b n c"]:
        """Return the tokens after the block."""
        parts = self.adaLN_modulation(told)[:, None].chunk(6, -1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        x = x + gate * self.attn(_modulated(x, shift, scale))
        x = x + self.cross_attn(_normed(x), context, mask)
        h = F.gelu(self.mlp["fc1"](_modulated(x, shift_mlp, scale_mlp)), approximate="tanh")
        return x + gate_mlp * self.mlp["fc2"](h)


class FinalLayer(nn.Module):
    """Modulation and the map to the points of a patch."""

    def __init__(self, c: DitConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(c.width, int(np.prod(c.patch)) * c.channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(c.width, 2 * c.width))

    def forward(self, x: Float[Tensor, "b n c"], told: Float[Tensor, "b c"]) -> Tensor:
        """Return the patches as rows."""
        return self.linear(_modulated(x, *self.adaLN_modulation(told)[:, None].chunk(2, -1)))


class LatentTransformer(Pretrained, nn.Module):
    """The network of a flow, or of a diffusion, of latents.

    Parameters
    ----------
    sizes : DitConfig, optional
        The released cylinder S if absent.

    Notes
    -----
    Modules have the authors' names. Their code lets tokens attend to padding and masks only the
    mean; here a mask holds for both unless ``mask_attention`` is off.

    References
    ----------
    Peebles & Xie, "Scalable Diffusion Models with Transformers" (ICCV 2023); Zhou et al., Text2PDE
    (arXiv 2410.01153).
    """

    def __init__(self, sizes: DitConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or DitConfig()
        self.x_embedder = nn.ModuleDict({"proj": _patches(c)})
        self.pos_embed = nn.Parameter(position_waves(c.tokens, c.width)[None])
        self.t_embedder = NumberEmbedding(c.width // 2)
        self.y_embedder = nn.Sequential(
            nn.Linear(c.context, c.width), nn.SiLU(), nn.Linear(c.width, c.width // 2)
        )
        if c.joint:
            self.context_embedder = nn.Linear(c.context, c.width)
            made = [(c.width, c.heads, c.mlp_ratio)] * c.depth
            blocks = [JointBlock(*b, is_last=i == c.depth - 1) for i, b in enumerate(made)]
        self.blocks: Any = nn.ModuleList(blocks if c.joint else (Block(c) for _ in range(c.depth)))
        self.final_layer = FinalLayer(c)
        self._start()

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a transformer from the configuration in ``config.json``."""
        return cls(None if config["sizes"] is None else DitConfig(**config["sizes"]))

    def _start(self) -> None:
        """Set the weights at which training starts: every block is the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        embedder: Any = self.x_embedder["proj"]
        nn.init.xavier_uniform_(embedder.weight.data.flatten(1))
        layers: Any
        part: Any
        for layers in (self.t_embedder.mlp, self.y_embedder):
            for layer in (layers[0], layers[2]):
                nn.init.normal_(layer.weight, std=0.02)
        gates = (m for m in self.blocks.modules() if isinstance(m, Stream | Block))
        for part in [*(m.modulation if isinstance(m, Stream) else m.adaLN_modulation[-1]
                       for m in gates),
                     self.final_layer.adaLN_modulation[-1], self.final_layer.linear]:  # fmt: skip
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def vector(
        self, t: Tensor, context: Tensor, mask: Bool[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b c"]:
        """Return what modulates every block: the time, and the mean of the tokens."""
        if mask is None:
            mean = context.mean(1)
        else:
            kept = mask[..., None].to(context)
            mean = (context * kept).sum(1) / kept.sum(1).clamp_min(1)
        return torch.cat([self.t_embedder(t), self.y_embedder(mean)], -1)

    def forward(
        self,
        x: Float[Tensor, "b c *g"],
        t: Float[Tensor, " b"],
        context: Float[Tensor, "b m k"],
        mask: Bool[Tensor, "b m"] | None = None,
        *,
        mask_attention: bool = True,
        further: Float[Tensor, "b c"] | None = None,
    ) -> Float[Tensor, "b c *g"]:
        """Return the prediction.

        Parameters
        ----------
        x : Tensor, shape (b, channels + told, *grid)
        t : Tensor, shape (b,)
            In the network's own clock, 0 to 1000.
        context : Tensor, shape (b, m, k)
            Tokens to attend to.
        mask : Tensor, shape (b, m), optional
            True where a token counts.
        mask_attention : bool
            Whether the mask holds for attention too, and not for the mean alone.
        further : Tensor, shape (b, width), optional
            What modulates the blocks besides time and tokens.
        """
        c = self.sizes
        mask = None if mask is None else mask.bool()
        h = self.x_embedder["proj"](x).flatten(2).transpose(1, 2) + self.pos_embed
        told = self.vector(t, context, mask)
        told = told if further is None else told + further
        seen = mask if mask_attention else None
        if c.joint:
            tokens = self.context_embedder(context)
            if seen is not None:  # all latents, and the tokens that count
                seen = torch.cat([seen.new_ones(h.shape[:2]), seen], 1)[:, None]
            for block in self.blocks:
                h, tokens = block(h, tokens, told, seen)
        else:
            for block in self.blocks:
                h = block(h, told, context, seen)
        rows = self.final_layer(h, told).unflatten(-1, (*c.patch, c.channels))
        rows = rows.unflatten(1, c.tokens)  # b, tokens along each axis, patch along each, channel
        axes = [axis for i in range(len(c.grid)) for axis in (1 + i, 1 + len(c.grid) + i)]
        return rows.permute(0, rows.ndim - 1, *axes).reshape(len(x), c.channels, *c.grid)


def _patches(c: DitConfig) -> nn.Module:
    told: Any = {"stride": c.patch, "padding": 0}
    return convolution(len(c.grid), c.channels + c.told, c.width, c.patch, **told)


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return _normed(x) * (1 + scale) + shift


def position_waves(tokens: Sequence[int], width: int) -> Float[Tensor, "n c"]:
    """Return sines and cosines of the place of each token, where training starts from.

    The first two axes stand exchanged, as the authors have it: for grids that are not cubes it is
    a start like another, since the table is trained.

    Parameters
    ----------
    tokens : sequence of int
        Along two or three axes.
    width : int
        Channels: a third to each axis if it divides by 3, else a half to the first and quarters.
    """
    axes = [np.arange(n, dtype=np.float64) for n in tokens]
    mesh = [m.reshape(-1) for m in np.meshgrid(*axes)]
    if len(tokens) == 2:
        widths = [width // 2] * 2
    else:
        widths = [width // 3] * 3 if width % 3 == 0 else [width // 2, width // 4, width // 4]
    parts = []
    for place, channels in zip(mesh, widths, strict=True):
        rates = 1 / 10_000 ** (np.arange(channels // 2, dtype=np.float64) / (channels / 2))
        angles = place[:, None] * rates
        parts.append(np.concatenate([np.sin(angles), np.cos(angles)], 1))
    return torch.from_numpy(np.concatenate(parts, 1)).float()
