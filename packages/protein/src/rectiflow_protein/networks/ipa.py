"""Invariant point attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectiflow_protein.networks.initialise import default_linear, zero_linear

if TYPE_CHECKING:
    from jaxtyping import Float

MASKED = -1e5  # logit of a padded key; exp of it is zero in every dtype we use


class InvariantPointAttention(nn.Module):
    r"""Attention over residues by content, pair features and points carried by the frames.

    .. math::
        l_{hij} = \sqrt{\tfrac{1}{3c}} q_{hi} \cdot k_{hj} + \sqrt{\tfrac13} b_h(z_{ij})
                  - \tfrac12 \gamma_h \sum_p |T_i q_{ihp} - T_j k_{jhp}|^2

    The squared distance is expanded, ``-2 q·k + |k|²``, and joins the content features in one
    matrix product; ``|q|²`` is constant along the softmax and is dropped. Nothing of shape
    ``(b, n, n, heads, points, 3)`` is ever made. Coordinates are centred first, so that the
    expansion keeps its digits.

    Parameters
    ----------
    c_s, c_z : int
        Channels of nodes and edges.
    c_hidden, heads, qk_points, v_points : int
        Channels and points per head.

    References
    ----------
    Jumper et al. (2021), supplementary algorithm 22.
    """

    def __init__(
        self, c_s: int, c_z: int, c_hidden: int, heads: int, qk_points: int, v_points: int
    ) -> None:
        super().__init__()
        self.c_hidden, self.heads = c_hidden, heads
        self.qk_points, self.v_points = qk_points, v_points
        self.head_weights = nn.Parameter(torch.full((heads,), 0.541324854612918))
        self.linear_q = default_linear(c_s, heads * c_hidden)
        self.linear_kv = default_linear(c_s, 2 * heads * c_hidden)
        self.linear_q_points = default_linear(c_s, 3 * heads * qk_points)
        self.linear_kv_points = default_linear(c_s, 3 * heads * (qk_points + v_points))
        self.linear_b = default_linear(c_z, heads)
        self.down_z = default_linear(c_z, c_z // 4)
        self.linear_out = zero_linear(heads * (c_hidden + 4 * v_points + c_z // 4), c_s)

    def forward(
        self,
        s: Float[Tensor, "b n c_s"],
        z: Float[Tensor, "b n n c_z"],
        rotmat: Float[Tensor, "b n 3 3"],
        trans: Float[Tensor, "b n 3"],
        res_mask: Float[Tensor, "b n"] | None,
    ) -> Float[Tensor, "b n c_s"]:
        """Update nodes; ``trans`` in nanometres. Rows of padded residues hold no meaning."""
        b, n, _ = s.shape
        h, c, pv = self.heads, self.c_hidden, self.v_points
        trans = (trans - trans.mean(1, keepdim=True)).unsqueeze(-1)

        bias, pair = self._pair_terms(z)
        if res_mask is not None:
            bias = bias + (MASKED * (1 - res_mask))[:, None, None, :]
        query, key, value = self._features(s, rotmat, trans)
        attention = torch.softmax(
            torch.baddbmm(bias.reshape(b * h, n, n), query.flatten(0, 1), key.flatten(0, 1).mT),
            dim=-1,
        )
        out = torch.bmm(attention, value.flatten(0, 1)).view(b, h, n, c + 3 * pv)
        attention = attention.view(b, h, n, n).transpose(1, 2)  # b i h j
        o_pair = torch.matmul(attention.to(pair.dtype), pair).flatten(2).to(s.dtype)

        o = out[..., :c].transpose(1, 2).flatten(2)
        points = out[..., c:].view(b, h, n, 3, pv).permute(0, 2, 3, 1, 4).flatten(3)
        points = rotmat.mT @ (points - trans)  # b n 3 (h p)
        norm = torch.sqrt((points * points).sum(2) + 1e-8)
        return self.linear_out(torch.cat([o, points.flatten(2), norm, o_pair], dim=-1))

    def _pair_terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        # One pass over the edges serves the logit bias and the pair values.
        weight = torch.cat([self.linear_b.weight * math.sqrt(1 / 3), self.down_z.weight])
        offset = torch.cat([self.linear_b.bias * math.sqrt(1 / 3), self.down_z.bias])
        both = F.linear(z, weight.to(z.dtype), offset.to(z.dtype))
        bias = both[..., : self.heads].permute(0, 3, 1, 2)
        return bias.to(self.linear_b.weight.dtype), both[..., self.heads :]

    def _features(self, s: Tensor, rotmat: Tensor, trans: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = s.shape
        h, c, pq, pv = self.heads, self.c_hidden, self.qk_points, self.v_points
        q = self.linear_q(s).view(b, n, h, c).transpose(1, 2)
        k, v = self.linear_kv(s).view(b, n, h, 2 * c).transpose(1, 2).split(c, dim=-1)

        def place(points: Tensor, count: int) -> Tensor:
            """Move ``(b, n, 3·h·count)`` points, coordinate-major, to global ``b h n 3 count``."""
            moved = rotmat @ points.view(b, n, 3, h * count) + trans
            return moved.view(b, n, 3, h, count).permute(0, 3, 1, 2, 4)

        q_points = place(self.linear_q_points(s), pq)
        kv_points = place(self.linear_kv_points(s), pq + pv)
        k_points, v_points = kv_points.split([pq, pv], dim=-1)
        gamma = F.softplus(self.head_weights) * math.sqrt(1 / (3 * pq * 9 / 2))
        gamma = gamma.view(h, 1, 1)

        q_points = q_points.flatten(3) * gamma
        k_norm = -0.5 * gamma * k_points.square().sum((-1, -2)).unsqueeze(-1)
        one = torch.ones_like(k_norm)
        query = torch.cat([q * math.sqrt(1 / (3 * c)), q_points, one], dim=-1)
        key = torch.cat([k, k_points.flatten(3), k_norm], dim=-1)
        return query, key, torch.cat([v, v_points.flatten(3)], dim=-1)
