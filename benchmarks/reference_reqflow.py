"""The ReQFlow network as a textbook writes it: the yardstick of ``protein_network.py``.

Every concatenation is made, every point difference is a tensor, and the sequence transformer is
torch's. Names and shapes of the parameters are the official ones, so that one state dict serves
this network and ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from rectiflow.spaces import quat_multiply, quat_to_rotmat
from rectiflow_protein.networks import ReQFlowConfig
from torch import Tensor, nn

PERIOD = 2056


def index_embedding(index: Tensor, dim: int) -> Tensor:
    k = torch.arange(dim // 2, device=index.device)
    angle = index[..., None].float() * math.pi / PERIOD ** (2 * k / dim)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def time_embedding(t: Tensor, dim: int) -> Tensor:
    half = dim // 2
    k = torch.arange(half, device=t.device)
    angle = PERIOD * t[:, None] * torch.exp(-k * math.log(PERIOD) / (half - 1))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def distogram(trans: Tensor, num_bins: int) -> Tensor:
    distance = torch.linalg.norm(trans[:, :, None] - trans[:, None, :], dim=-1, keepdim=True)
    lower = torch.linspace(1e-3, 20, num_bins, device=trans.device)
    upper = torch.cat([lower[1:], lower.new_tensor([1e8])])
    return ((distance > lower) & (distance < upper)).float()


class NodeEmbedder(nn.Module):
    def __init__(self, c: ReQFlowConfig) -> None:
        super().__init__()
        self.c = c
        self.linear = nn.Linear(c.c_pos_emb + 1 + 2 * c.c_timestep_emb, c.c_s)

    def forward(self, t: Tensor, res_idx: Tensor, diffuse: Tensor, mask: Tensor) -> Tensor:
        m = mask[..., None]
        time = time_embedding(t, self.c.c_timestep_emb)[:, None].expand(-1, mask.shape[1], -1) * m
        position = index_embedding(res_idx, self.c.c_pos_emb) * m
        return self.linear(torch.cat([position, diffuse[..., None], time, time], dim=-1))


class EdgeEmbedder(nn.Module):
    def __init__(self, c: ReQFlowConfig) -> None:
        super().__init__()
        self.c = c
        self.linear_s_p = nn.Linear(c.c_s, c.feat_dim)
        self.linear_relpos = nn.Linear(c.feat_dim, c.feat_dim)
        self.edge_embedder = nn.Sequential(
            nn.Linear(3 * c.feat_dim + 2 * c.num_bins + 2, c.c_z),
            nn.ReLU(),
            nn.Linear(c.c_z, c.c_z),
            nn.ReLU(),
            nn.Linear(c.c_z, c.c_z),
            nn.LayerNorm(c.c_z),
        )

    def forward(self, node: Tensor, trans: Tensor, trans_sc: Tensor, diffuse: Tensor) -> Tensor:
        b, n, _ = node.shape
        p = self.linear_s_p(node)
        i = torch.arange(n, device=node.device)
        offset = (i[:, None] - i[None, :]).expand(b, n, n)
        features = [
            p[:, :, None].expand(b, n, n, -1),
            p[:, None, :].expand(b, n, n, -1),
            self.linear_relpos(index_embedding(offset, self.c.feat_dim)),
            distogram(trans, self.c.num_bins),
            distogram(trans_sc, self.c.num_bins),
            diffuse[:, :, None, None].expand(b, n, n, 1),
            diffuse[:, None, :, None].expand(b, n, n, 1),
        ]
        return self.edge_embedder(torch.cat(features, dim=-1))


class InvariantPointAttention(nn.Module):
    def __init__(self, c: ReQFlowConfig) -> None:
        super().__init__()
        self.c = c
        h, pq, pv = c.heads, c.qk_points, c.v_points
        self.head_weights = nn.Parameter(torch.zeros(h))
        self.linear_q = nn.Linear(c.c_s, h * c.c_hidden)
        self.linear_kv = nn.Linear(c.c_s, 2 * h * c.c_hidden)
        self.linear_q_points = nn.Linear(c.c_s, 3 * h * pq)
        self.linear_kv_points = nn.Linear(c.c_s, 3 * h * (pq + pv))
        self.linear_b = nn.Linear(c.c_z, h)
        self.down_z = nn.Linear(c.c_z, c.c_z // 4)
        self.linear_out = nn.Linear(h * (c.c_hidden + 4 * pv + c.c_z // 4), c.c_s)

    def forward(self, s: Tensor, z: Tensor, rotmat: Tensor, trans: Tensor, mask: Tensor) -> Tensor:
        b, n, _ = s.shape
        h, c, pq, pv = self.c.heads, self.c.c_hidden, self.c.qk_points, self.c.v_points
        q = self.linear_q(s).view(b, n, h, c)
        k, v = self.linear_kv(s).view(b, n, h, 2 * c).split(c, dim=-1)
        q_points = self.placed(self.linear_q_points(s), rotmat, trans)
        k_points, v_points = self.placed(self.linear_kv_points(s), rotmat, trans).split(
            [pq, pv], dim=-2
        )
        logits = math.sqrt(1 / (3 * c)) * torch.einsum("bihc,bjhc->bijh", q, k)
        logits = logits + math.sqrt(1 / 3) * self.linear_b(z)
        difference = q_points[:, :, None] - k_points[:, None, :]  # b n n h p 3
        gamma = F.softplus(self.head_weights) * math.sqrt(1 / (3 * pq * 9 / 2))
        logits = logits - 0.5 * gamma * (difference**2).sum(-1).sum(-1)
        logits = logits + 1e5 * (mask[:, :, None] * mask[:, None, :] - 1)[..., None]
        a = torch.softmax(logits, dim=2)

        o = torch.einsum("bijh,bjhc->bihc", a, v).flatten(2)
        o_points = (a[..., None, None] * v_points[:, None]).sum(2)  # b n h p 3
        o_points = torch.einsum("biyx,bihpy->bihpx", rotmat, o_points - trans[:, :, None, None])
        o_norm = torch.sqrt((o_points**2).sum(-1) + 1e-8).flatten(2)
        o_pair = torch.einsum("bijh,bijc->bihc", a, self.down_z(z)).flatten(2)
        x, y, w = (axis.flatten(2) for axis in o_points.unbind(-1))
        return self.linear_out(torch.cat([o, x, y, w, o_norm, o_pair], dim=-1))

    def placed(self, points: Tensor, rotmat: Tensor, trans: Tensor) -> Tensor:
        """Move ``(b, n, 3·h·p)`` points of the residues to the global frame, ``b n h p 3``."""
        local = points.unflatten(-1, (3, self.c.heads, -1)).movedim(2, -1)
        return torch.einsum("bixy,bihpy->bihpx", rotmat, local) + trans[:, :, None, None]


class NodeTransition(nn.Module):
    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(c_s, c_s)
        self.linear_2 = nn.Linear(c_s, c_s)
        self.linear_3 = nn.Linear(c_s, c_s)
        self.ln = nn.LayerNorm(c_s)

    def forward(self, s: Tensor) -> Tensor:
        return self.ln(s + self.linear_3(F.relu(self.linear_2(F.relu(self.linear_1(s))))))


class BackboneUpdate(nn.Module):
    def __init__(self, c_s: int) -> None:
        super().__init__()
        self.linear = nn.Linear(c_s, 6)

    def forward(self, s: Tensor, quat: Tensor, trans: Tensor, moving: Tensor) -> tuple:
        turn, shift = self.linear(s).split(3, dim=-1)
        new = quat + moving * quat_multiply(quat, F.pad(turn, (1, 0)))
        shift = torch.einsum("bixy,biy->bix", quat_to_rotmat(quat), shift)
        return new / new.norm(dim=-1, keepdim=True), trans + moving * shift


class EdgeTransition(nn.Module):
    def __init__(self, c_s: int, c_z: int) -> None:
        super().__init__()
        hidden = c_z + 2 * (c_s // 2)
        self.initial_embed = nn.Linear(c_s, c_s // 2)
        self.trunk = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.final_layer = nn.Linear(hidden, c_z)
        self.layer_norm = nn.LayerNorm(c_z)

    def forward(self, s: Tensor, z: Tensor) -> Tensor:
        b, n, _ = s.shape
        node = self.initial_embed(s)
        n_i, n_j = node[:, :, None].expand(b, n, n, -1), node[:, None, :].expand(b, n, n, -1)
        h = torch.cat([z, n_i, n_j], dim=-1)
        return self.layer_norm(self.final_layer(self.trunk(h) + h))


class ReferenceNetwork(nn.Module):
    """Takes and returns what :class:`~rectiflow_protein.networks.ReQFlowNetwork` does."""

    def __init__(self, sizes: ReQFlowConfig | None = None) -> None:
        super().__init__()
        self.c = c = sizes or ReQFlowConfig()
        self.node_feature_net = NodeEmbedder(c)
        self.edge_feature_net = EdgeEmbedder(c)
        self.trunk = nn.ModuleDict()
        for b in range(c.blocks):
            self.trunk[f"ipa_{b}"] = InvariantPointAttention(c)
            self.trunk[f"ipa_ln_{b}"] = nn.LayerNorm(c.c_s)
            layer = nn.TransformerEncoderLayer(
                c.c_s, c.tfmr_heads, dim_feedforward=c.c_s, dropout=0.0, batch_first=True
            )
            self.trunk[f"seq_tfmr_{b}"] = nn.TransformerEncoder(
                layer, c.tfmr_layers, enable_nested_tensor=False
            )
            self.trunk[f"post_tfmr_{b}"] = nn.Linear(c.c_s, c.c_s)
            self.trunk[f"node_transition_{b}"] = NodeTransition(c.c_s)
            self.trunk[f"bb_update_{b}"] = BackboneUpdate(c.c_s)
            if b < c.blocks - 1:
                self.trunk[f"edge_transition_{b}"] = EdgeTransition(c.c_s, c.c_z)

    def forward(
        self,
        x: dict[str, Tensor],
        t: Tensor,
        *,
        res_idx: Tensor,
        diffuse_mask: Tensor | None = None,
        res_mask: Tensor | None = None,
        trans_sc: Tensor | None = None,
    ) -> dict[str, Tensor]:
        ones = torch.ones_like(x["trans"][..., 0])
        mask = ones if res_mask is None else res_mask
        diffuse = ones if diffuse_mask is None else diffuse_mask
        previous = torch.zeros_like(x["trans"]) if trans_sc is None else trans_sc
        m, edge_mask = mask[..., None], (mask[:, :, None] * mask[:, None, :])[..., None]

        node = self.node_feature_net(t, res_idx, diffuse, mask)
        edge = self.edge_feature_net(node, x["trans"], previous, diffuse) * edge_mask
        node = node * m
        quat = x["rot"] / x["rot"].norm(dim=-1, keepdim=True)
        trans = 0.1 * x["trans"]
        for b in range(self.c.blocks):
            ipa = self.trunk[f"ipa_{b}"](node, edge, quat_to_rotmat(quat), trans, mask)
            node = self.trunk[f"ipa_ln_{b}"](node + ipa * m)
            mixed = self.trunk[f"seq_tfmr_{b}"](node, src_key_padding_mask=mask < 0.5)
            node = node + self.trunk[f"post_tfmr_{b}"](mixed)
            node = self.trunk[f"node_transition_{b}"](node) * m
            quat, trans = self.trunk[f"bb_update_{b}"](node, quat, trans, m * diffuse[..., None])
            if b < self.c.blocks - 1:
                edge = self.trunk[f"edge_transition_{b}"](node, edge) * edge_mask
        return {"trans": 10 * trans, "rot": quat}
