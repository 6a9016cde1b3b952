"""What the network knows before its first block: positions, time and distances.

The edge embedder's first linear acts on a concatenation of seven pieces of which none is a dense
function of the pair: node pieces depend on i or j alone, the relative position on ``i - j``, the
distograms are one-hot. Its weight is therefore applied piece by piece, and the concatenated
``(b, n, n, 238)`` tensor of the reference is never made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int

MAX_LENGTH = 2056
"""Period of the positional embeddings, also the scale of the time embedding."""

DISTOGRAM_MIN = 1e-3
DISTOGRAM_MAX = 20.0
"""Range of the lower bin edges, Å."""


def index_embedding(index: Tensor, dim: int) -> Float[Tensor, "*b d"]:
    r"""Sinusoidal embedding of positions, sines first.

    .. math:: [\sin(\pi v / 2056^{2k/d}), \cos(\pi v / 2056^{2k/d})],\; k = 0..d/2-1
    """
    k = torch.arange(dim // 2, device=index.device)
    angle = index.unsqueeze(-1).float() * math.pi / (MAX_LENGTH ** (2 * k / dim))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def time_embedding(t: Float[Tensor, " b"], dim: int) -> Float[Tensor, "b d"]:
    """Sinusoidal embedding of ``2056 t`` with frequencies from 1 down to 1/2056, sines first."""
    half = dim // 2
    k = torch.arange(half, device=t.device, dtype=torch.float32)
    frequency = torch.exp(-k * (math.log(MAX_LENGTH) / (half - 1)))
    angle = t.float().unsqueeze(-1) * MAX_LENGTH * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def distogram_bins(trans: Float[Tensor, "b n 3"], num_bins: int) -> Int[Tensor, "b n n"]:
    """Bin of each pair distance, or ``num_bins`` where the distance is in no bin.

    Bin k holds ``lower_k < d < lower_{k+1}`` with both signs strict; the last one is open upwards.
    The diagonal, at distance zero, is below the first bin.
    """
    lower = torch.linspace(DISTOGRAM_MIN, DISTOGRAM_MAX, num_bins, device=trans.device)
    distance = torch.linalg.vector_norm(trans.unsqueeze(-2) - trans.unsqueeze(-3), dim=-1)
    above = torch.bucketize(distance, lower)  # lower[above - 1] < d <= lower[above]
    edge = lower[above.clamp(max=num_bins - 1)]
    outside = (above == 0) | (distance == edge)
    return torch.where(outside, num_bins, above - 1)


class NodeEmbedder(nn.Module):
    """Residue number, mask of moving residues and time, to ``(b, n, c_s)``."""

    def __init__(self, c_s: int, c_pos_emb: int, c_timestep_emb: int) -> None:
        super().__init__()
        self.c_pos_emb, self.c_timestep_emb = c_pos_emb, c_timestep_emb
        self.linear = nn.Linear(c_pos_emb + 1 + 2 * c_timestep_emb, c_s)

    def forward(
        self,
        t: Float[Tensor, " b"],
        res_idx: Float[Tensor, "b n"],
        diffuse_mask: Float[Tensor, "b n"],
        res_mask: Float[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b n c_s"]:
        """Embed each residue; the rotation and translation clocks are one time ``t``."""
        n = res_idx.shape[1]
        position = index_embedding(res_idx, self.c_pos_emb)
        time = time_embedding(t, self.c_timestep_emb).unsqueeze(1).expand(-1, n, -1)
        if res_mask is not None:
            position, time = position * res_mask[..., None], time * res_mask[..., None]
        features = torch.cat([position, diffuse_mask.unsqueeze(-1), time, time], dim=-1)
        return self.linear(features.to(self.linear.weight.dtype))


class EdgeEmbedder(nn.Module):
    """Relative position, pair distances of the noisy and of the last predicted chain, and masks.

    Maps to ``(b, n, n, c_z)``.
    """

    def __init__(self, c_s: int, c_z: int, feat_dim: int, num_bins: int) -> None:
        super().__init__()
        self.feat_dim, self.num_bins = feat_dim, num_bins
        self.linear_s_p = nn.Linear(c_s, feat_dim)
        self.linear_relpos = nn.Linear(feat_dim, feat_dim)
        self.edge_embedder = nn.Sequential(
            nn.Linear(3 * feat_dim + 2 * num_bins + 2, c_z),
            nn.ReLU(),
            nn.Linear(c_z, c_z),
            nn.ReLU(),
            nn.Linear(c_z, c_z),
            nn.LayerNorm(c_z),
        )

    @property
    def _layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.LayerNorm]:
        first, _, second, _, third, norm = self.edge_embedder
        return cast(
            "tuple[nn.Linear, nn.Linear, nn.Linear, nn.LayerNorm]", (first, second, third, norm)
        )

    def node_terms(
        self, node: Float[Tensor, "b n c_s"], diffuse_mask: Float[Tensor, "b n"]
    ) -> tuple[Float[Tensor, "b n c_z"], Float[Tensor, "b n c_z"]]:
        """Return the parts of the first linear that depend on i alone and on j alone."""
        p = self.linear_s_p(node)
        f, k = self.feat_dim, 2 * self.num_bins
        first = self._layers[0]
        w = first.weight
        w_i, w_j = w[:, :f], w[:, f : 2 * f]
        moving = diffuse_mask.unsqueeze(-1).to(p.dtype)
        from_i = F.linear(p, w_i, first.bias) + moving * w[:, 3 * f + k]
        return from_i, F.linear(p, w_j) + moving * w[:, 3 * f + k + 1]

    def pair_table(self, n: int) -> Float[Tensor, "rows c_z"]:
        """Return what the first linear makes of each relative position and distance bin.

        Rows: ``2n - 1`` offsets from ``-(n-1)``, then the bins of the noisy chain and "no bin",
        then the bins of the predicted chain and "no bin".
        """
        f, bins = self.feat_dim, self.num_bins
        w = self._layers[0].weight
        offsets = torch.arange(-(n - 1), n, device=w.device)
        relpos = self.linear_relpos(index_embedding(offsets, f).to(w.dtype))
        relpos = F.linear(relpos, w[:, 2 * f : 3 * f])
        noisy = F.pad(w[:, 3 * f : 3 * f + bins].T, (0, 0, 0, 1))
        predicted = F.pad(w[:, 3 * f + bins : 3 * f + 2 * bins].T, (0, 0, 0, 1))
        return torch.cat([relpos, noisy, predicted])

    def pair_rows(self, trans: Tensor, trans_sc: Tensor | None) -> Int[Tensor, "b n n 3"]:
        """Return the three rows of :meth:`pair_table` that each pair sums."""
        n = trans.shape[1]
        i = torch.arange(n, device=trans.device)
        offset = (i[:, None] - i[None, :] + n - 1).expand(trans.shape[0], n, n)
        noisy = distogram_bins(trans, self.num_bins) + 2 * n - 1
        start = 2 * n + self.num_bins
        if trans_sc is None:  # the reference feeds zeros then: every pair is in no bin
            predicted = torch.full_like(noisy, start + self.num_bins)
        else:
            predicted = distogram_bins(trans_sc, self.num_bins) + start
        return torch.stack([offset, noisy, predicted], dim=-1)

    def forward(
        self,
        rows: Int[Tensor, "b m n 3"],
        table: Float[Tensor, "rows c_z"],
        from_i: Float[Tensor, "b m c_z"],
        from_j: Float[Tensor, "b n c_z"],
        dtype: torch.dtype,
    ) -> Float[Tensor, "b m n c_z"]:
        """Embed the pairs of ``m`` residues i with all residues j, in ``dtype``."""
        b, m, n, _ = rows.shape
        z = F.embedding_bag(rows.reshape(-1, 3), table, mode="sum").view(b, m, n, -1)
        z = torch.relu_(z.add_(from_i.unsqueeze(2)).add_(from_j.unsqueeze(1))).to(dtype)
        _, second, third, norm = self._layers
        z = torch.relu_(F.linear(z, second.weight.to(dtype), second.bias.to(dtype)))
        z = F.linear(z, third.weight.to(dtype), third.bias.to(dtype))
        return F.layer_norm(
            z, z.shape[-1:], norm.weight.to(z.dtype), norm.bias.to(z.dtype), norm.eps
        )
