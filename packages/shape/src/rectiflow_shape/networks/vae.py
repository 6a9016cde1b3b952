"""TripoSG's autoencoder: a cloud of points to a set of latents, and latents to a field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rectiflow import Pretrained
from torch import Tensor, nn

from rectiflow_shape.networks.attention import Block, Norm

if TYPE_CHECKING:
    from jaxtyping import Float

QUERY_CHUNK = 50_000
"""Points that are decoded at once, unless told otherwise."""

OVERSAMPLING = 4
"""Of the points that farthest point sampling chooses the tokens from."""


@dataclass(frozen=True)
class Posterior:
    """A diagonal normal law over latents (b, n, c)."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return the latents that unit noise stands for."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Return the divergence from the unit normal, summed over tokens and channels."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)


class PointEmbedding(nn.Module):
    """Points, then sines and cosines of them times powers of two, coordinate by coordinate."""

    def __init__(self, frequencies: int, include_pi: bool = False) -> None:
        super().__init__()
        self.frequencies, self.scale = frequencies, torch.pi if include_pi else 1.0
        self.width = 3 * (2 * frequencies + 1)

    def forward(self, xyz: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b w"]:
        """Embed points."""
        powers = self.scale * 2.0 ** torch.arange(self.frequencies, device=xyz.device)
        angles = (xyz[..., None] * powers.to(xyz.dtype)).flatten(-2)
        return torch.cat([xyz, angles.sin(), angles.cos()], dim=-1)


class _Encoder(nn.Module):
    def __init__(self, features: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, width)
        first = Block(width, heads, self_attention=False, contexts=(width,), context_norm=True)
        self.blocks = nn.ModuleList([first, *(Block(width, heads) for _ in range(layers))])
        self.norm_out = Norm(width)

    def forward(self, queries: Tensor, points: Tensor) -> Tensor:
        x, context = self.proj_in(queries), self.proj_in(points)
        for i, block in enumerate(self.blocks):
            x = block(x, (context,) if i == 0 else ())
        return self.norm_out(x)


class _Decoder(nn.Module):
    def __init__(self, features: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        last = Block(width, heads, self_attention=False, contexts=(width,), context_norm=True)
        self.blocks = nn.ModuleList([*(Block(width, heads) for _ in range(layers)), last])
        self.proj_query = nn.Linear(features, width)
        self.norm_out = Norm(width)
        self.proj_out = nn.Linear(width, 1)

    def tokens(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks[:-1]:
            x = block(x)
        last: Any = self.blocks[-1]
        return last.attn2.keys(x)

    def forward(self, embedded: Tensor, keys: tuple[Tensor, Tensor]) -> Tensor:
        x = self.blocks[-1](self.proj_query(embedded), (keys,))
        return self.proj_out(self.norm_out(x))[..., 0]


class TripoSGVae(Pretrained, nn.Module):
    """Encodes points with normals into tokens, and decodes tokens to a field, positive inside.

    Parameters
    ----------
    latent_channels : int
        Of each token.
    heads : int
        Of all attention.
    width_encoder, width_decoder : int
    layers_encoder, layers_decoder : int
        Blocks of self-attention; each half has one of cross-attention besides.
    frequencies : int
        Of the embedding of points.
    include_pi : bool
        Multiply them by π.
    truncation : float, optional
        Distance at which the field saturates at ±1, in the unit of the points; None where it is
        not known, as for the released weights.

    References
    ----------
    Li et al., "TripoSG: High-Fidelity 3D Shape Synthesis using Large-Scale Rectified Flow Models"
    (arXiv 2502.06608).
    """

    def __init__(
        self,
        latent_channels: int = 64,
        heads: int = 8,
        width_encoder: int = 512,
        width_decoder: int = 1024,
        layers_encoder: int = 8,
        layers_decoder: int = 16,
        frequencies: int = 8,
        include_pi: bool = False,
        truncation: float | None = None,
    ) -> None:
        super().__init__()
        self.latent_channels, self.truncation = latent_channels, truncation
        self.embedding = PointEmbedding(frequencies, include_pi)
        features = self.embedding.width
        self.encoder = _Encoder(features + 3, width_encoder, heads, layers_encoder)
        self.quant = nn.Linear(width_encoder, 2 * latent_channels)
        self.post_quant = nn.Linear(latent_channels, width_decoder)
        self.decoder = _Decoder(features, width_decoder, heads, layers_decoder)

    def encode(self, points: Float[Tensor, "b p 6"], queries: Float[Tensor, "b n 6"]) -> Posterior:
        """Return the law of the latents.

        Parameters
        ----------
        points : Tensor
            Places in about [-1, 1] and unit normals of a surface.
        queries : Tensor
            Those of them that become tokens: see :func:`choose_tokens`.
        """
        moments = self.quant(self.encoder(self._featured(queries), self._featured(points)))
        mean, logvar = moments.chunk(2, dim=-1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def keys(self, latents: Float[Tensor, "b n c"]) -> tuple[Tensor, Tensor]:
        """Return all that depends on the latents alone, once for any number of points."""
        return self.decoder.tokens(self.post_quant(latents))

    def field(
        self, keys: tuple[Tensor, Tensor], xyz: Float[Tensor, "b q 3"]
    ) -> Float[Tensor, "b q"]:
        """Return the field at points: positive inside, in units of the truncation distance."""
        # Stored weights predict a distance that is negative inside.
        return -self.decoder(self.embedding(xyz), keys)

    def decode(
        self,
        latents: Float[Tensor, "b n c"],
        xyz: Float[Tensor, "b q 3"],
        chunk: int = QUERY_CHUNK,
    ) -> Float[Tensor, "b q"]:
        """Return the field of latents at points, so many at once; the same for any chunk."""
        keys = self.keys(latents)
        return torch.cat([self.field(keys, part) for part in xyz.split(chunk, dim=1)], dim=1)

    @torch.no_grad()
    def standardise(self, mean: Float[Tensor, " c"], spread: Float[Tensor, " c"]) -> None:
        """Take a mean and a spread out of the latents; the field of a shape stays as it is.

        The maps to and from the latents absorb them, so that nothing else need know.
        """
        channels = self.latent_channels
        self.quant.weight[:channels] /= spread[:, None]
        self.quant.bias[:channels] = (self.quant.bias[:channels] - mean) / spread
        self.quant.bias[channels:] -= 2 * spread.log()
        self.post_quant.bias += self.post_quant.weight @ mean
        self.post_quant.weight *= spread

    def _featured(self, points: Tensor) -> Tensor:
        return torch.cat([self.embedding(points[..., :3]), points[..., 3:]], dim=-1)
