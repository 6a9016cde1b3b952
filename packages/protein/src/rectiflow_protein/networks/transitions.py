"""The trunk's updates of nodes, frames and edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from rectiflow.spaces import quat_multiply
from torch import Tensor, nn

from rectiflow_protein.networks.initialise import relu_linear, zero_linear

if TYPE_CHECKING:
    from jaxtyping import Float


class NodeTransition(nn.Module):
    """Residual three-layer perceptron and a layer norm."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear_1 = relu_linear(c_s, c_s)
        self.linear_2 = relu_linear(c_s, c_s)
        self.linear_3 = zero_linear(c_s, c_s)
        self.ln = nn.LayerNorm(c_s)

    def forward(self, s: Float[Tensor, "b n c_s"]) -> Float[Tensor, "b n c_s"]:
        """Update nodes one by one."""
        update = self.linear_3(torch.relu(self.linear_2(torch.relu(self.linear_1(s)))))
        return self.ln(s + update)


class BackboneUpdate(nn.Module):
    """Turn and shift each frame in its own axes."""

    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear = zero_linear(c_s, 6)

    def forward(
        self,
        s: Float[Tensor, "b n c_s"],
        quat: Float[Tensor, "b n 4"],
        rotmat: Float[Tensor, "b n 3 3"],
        trans: Float[Tensor, "b n 3"],
        moving: Float[Tensor, "b n 1"],
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n 3"]]:
        """Return the new frames; the shift uses the orientation before the turn.

        The turn is ``q ⊗ (1, b, c, d)``, normalised; residues with ``moving = 0`` stay.
        """
        turn, shift = self.linear(s).split(3, dim=-1)
        step = quat_multiply(quat, F.pad(turn, (1, 0)))
        new = quat + moving * step
        new = new / torch.linalg.vector_norm(new, dim=-1, keepdim=True)
        return new, trans + moving * (rotmat @ shift.unsqueeze(-1)).squeeze(-1)


class EdgeTransition(nn.Module):
    r"""Residual perceptron on each edge and its two nodes.

    .. math:: h = [z_{ij}, n_i, n_j], \quad
              z_{ij} \leftarrow \mathrm{LN}(W_f (\mathrm{relu}(W_2\, \mathrm{relu}(W_1 h)) + h))

    This is nine tenths of the network's arithmetic. ``W_1 h`` and ``W_f h`` are split by columns,
    so that the node parts cost n products instead of n², a saving of 29 % at the released sizes,
    and h itself is never made.
    """

    def __init__(self, c_s: int, c_z: int) -> None:
        super().__init__()
        self.c_z, self.c_n = c_z, c_s // 2
        hidden = c_z + 2 * self.c_n
        self.initial_embed = relu_linear(c_s, self.c_n)
        self.trunk = nn.Sequential(
            relu_linear(hidden, hidden), nn.ReLU(), relu_linear(hidden, hidden), nn.ReLU()
        )
        self.final_layer = zero_linear(hidden, c_z)
        self.layer_norm = nn.LayerNorm(c_z)

    @property
    def _layers(self) -> tuple[nn.Linear, nn.Linear]:
        first, _, second, _ = self.trunk
        return cast("tuple[nn.Linear, nn.Linear]", (first, second))

    def node_terms(self, s: Float[Tensor, "b n c_s"], dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return what the first and the last layer take from node i and from node j."""
        n = self.initial_embed(s)
        first, last = self._layers[0], self.final_layer
        w1_i, w1_j = first.weight[:, self.c_z :].split(self.c_n, dim=1)
        wf_i, wf_j = last.weight[:, self.c_z :].split(self.c_n, dim=1)
        terms = [F.linear(n, w1_i, first.bias), F.linear(n, w1_j)]
        terms += [F.linear(n, wf_i, last.bias), F.linear(n, wf_j)]
        return tuple(term.to(dtype) for term in terms)

    def forward(
        self,
        z: Float[Tensor, "b m n c_z"],
        first_i: Float[Tensor, "b m h"],
        first_j: Float[Tensor, "b n h"],
        last_i: Float[Tensor, "b m c_z"],
        last_j: Float[Tensor, "b n c_z"],
    ) -> Float[Tensor, "b m n c_z"]:
        """Update the edges of ``m`` residues i with all residues j."""
        dtype, c_z = z.dtype, self.c_z
        (first, second), norm = self._layers, self.layer_norm
        w1 = first.weight[:, :c_z].to(dtype)
        wf = self.final_layer.weight.to(dtype)
        pairs = z.reshape(-1, c_z)
        hidden = _sum_of_nodes(first_i, first_j).addmm_(pairs, w1.T).relu_()
        hidden = F.linear(hidden, second.weight.to(dtype), second.bias.to(dtype)).relu_()
        out = _sum_of_nodes(last_i, last_j)
        if torch.is_grad_enabled():  # the backward pass of relu needs its output unchanged
            out.addmm_(pairs, wf[:, :c_z].T)
        else:
            hidden[:, :c_z] += pairs
        out.addmm_(hidden, wf.T)
        out = F.layer_norm(out, (c_z,), norm.weight.to(dtype), norm.bias.to(dtype), norm.eps)
        return out.view(z.shape)


def _sum_of_nodes(
    of_i: Float[Tensor, "b m c"], of_j: Float[Tensor, "b n c"]
) -> Float[Tensor, "bmn c"]:
    """Add the parts of i and of j for every pair; a matrix product is then accumulated on them."""
    return (of_i.unsqueeze(2) + of_j.unsqueeze(1)).flatten(0, 2)


class EncoderLayer(nn.Module):
    """Post-norm transformer encoder layer over residues, ReLU, no dropout.

    The parameters carry the names of ``torch.nn.TransformerEncoderLayer``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads)
        self.linear1 = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, s: Float[Tensor, "b n d"], bias: Tensor | None) -> Float[Tensor, "b n d"]:
        """Update nodes; ``bias`` is added to the attention logits."""
        s = self.norm1(s + self.self_attn(s, bias))
        return self.norm2(s + self.linear2(torch.relu(self.linear1(s))))


class SelfAttention(nn.Module):
    """Multi-head self-attention, parameters named as in ``torch.nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim}, heads={heads}")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, s: Float[Tensor, "b n d"], bias: Tensor | None) -> Float[Tensor, "b n d"]:
        """Attend over residues."""
        b, n, dim = s.shape
        qkv = F.linear(s, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out_proj(out.transpose(1, 2).reshape(b, n, dim))


class SequenceTransformer(nn.Module):
    """A stack of encoder layers without a final norm."""

    def __init__(self, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(dim, heads) for _ in range(depth))

    def forward(self, s: Float[Tensor, "b n d"], bias: Tensor | None) -> Float[Tensor, "b n d"]:
        """Apply the layers in turn."""
        for layer in self.layers:
            s = layer(s, bias)
        return s
