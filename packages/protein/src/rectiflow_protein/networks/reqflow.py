"""The ReQFlow network: noisy residue frames in, clean residue frames out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.rectify.flow_map import Until, added
from rectiflow.spaces import quat_to_rotmat
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectiflow_protein.networks.embedders import EdgeEmbedder, NodeEmbedder
from rectiflow_protein.networks.initialise import zero_linear
from rectiflow_protein.networks.ipa import MASKED, InvariantPointAttention
from rectiflow_protein.networks.transitions import (
    BackboneUpdate,
    EdgeTransition,
    NodeTransition,
    SequenceTransformer,
)

if TYPE_CHECKING:
    from jaxtyping import Float

ANGSTROM_TO_NM = 0.1
PAIRS_KEPT = 131072
"""Edges up to which training on a CPU keeps all temporaries; beyond, it computes them twice."""

PAIRS_PER_CHUNK = 4096
"""Edges updated at once on a CPU, so that the widest temporary stays in cache."""


@dataclass(frozen=True)
class ReQFlowConfig:
    """Sizes of the network; the defaults are the released ones (16,779,268 parameters)."""

    c_s: int = 256  # node channels
    c_z: int = 128  # edge channels
    c_pos_emb: int = 128
    c_timestep_emb: int = 128
    feat_dim: int = 64  # channels of each node and of the relative position in the edge embedder
    num_bins: int = 22  # of a distogram
    c_hidden: int = 128  # attention channels per head
    heads: int = 8
    qk_points: int = 8
    v_points: int = 12
    tfmr_heads: int = 4
    tfmr_layers: int = 2
    blocks: int = 6


class ReQFlowNetwork(Pretrained, nn.Module):
    """Predict the clean frames of a chain from its noisy frames and the time.

    SE(3)-equivariant: the only features of the coordinates are pair distances and invariant point
    attention. An untrained network returns its input. The parameters carry the official names.

    Parameters
    ----------
    sizes : ReQFlowConfig, optional
        The released sizes if absent.
    is_map : bool
        Whether it is a network of maps, from :func:`rectiflow.rectify.to_map`.

    Attributes
    ----------
    edge_dtype : torch.dtype
        Dtype of the edge features, where nine tenths of the arithmetic are; ``float32`` unless
        set. Frames, nodes and attention stay in float32.

    References
    ----------
    Yue et al., "ReQFlow: Rectified Quaternion Flow for Efficient and High-Quality Protein
    Backbone Generation" (ICML 2025, arXiv 2502.14637); the trunk is FrameFlow's.
    """

    def __init__(self, sizes: ReQFlowConfig | None = None, is_map: bool = False) -> None:
        super().__init__()
        self.sizes = c = sizes or ReQFlowConfig()
        self.is_map = is_map
        self.until = Until(c.c_s) if is_map else None
        self.edge_dtype = torch.float32
        self.node_feature_net = NodeEmbedder(c.c_s, c.c_pos_emb, c.c_timestep_emb)
        self.edge_feature_net = EdgeEmbedder(c.c_s, c.c_z, c.feat_dim, c.num_bins)
        self.trunk = nn.ModuleDict()
        for b in range(c.blocks):
            self.trunk[f"ipa_{b}"] = InvariantPointAttention(
                c.c_s, c.c_z, c.c_hidden, c.heads, c.qk_points, c.v_points
            )
            self.trunk[f"ipa_ln_{b}"] = nn.LayerNorm(c.c_s)
            self.trunk[f"seq_tfmr_{b}"] = SequenceTransformer(c.c_s, c.tfmr_heads, c.tfmr_layers)
            self.trunk[f"post_tfmr_{b}"] = zero_linear(c.c_s, c.c_s)
            self.trunk[f"node_transition_{b}"] = NodeTransition(c.c_s)
            self.trunk[f"bb_update_{b}"] = BackboneUpdate(c.c_s)
            if b < c.blocks - 1:
                self.trunk[f"edge_transition_{b}"] = EdgeTransition(c.c_s, c.c_z)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a network from the configuration in ``config.json``."""
        return cls(ReQFlowConfig(**(config["sizes"] or {})), config.get("is_map", False))

    def slim_sizes(self) -> dict[str, int]:
        """Return the sizes of half the width."""
        widths = ("c_s", "c_z", "c_pos_emb", "c_timestep_emb", "feat_dim", "c_hidden")
        halved = (*widths, "qk_points", "v_points")
        return {name: max(getattr(self.sizes, name) // 2, 1) for name in halved}

    def forward(
        self,
        x: dict[str, Tensor],
        t: Float[Tensor, " b"],
        *,
        res_idx: Float[Tensor, "b n"],
        diffuse_mask: Float[Tensor, "b n"] | None = None,
        res_mask: Float[Tensor, "b n"] | None = None,
        trans_sc: Float[Tensor, "b n 3"] | None = None,
        until: Float[Tensor, " b"] | None = None,
    ) -> dict[str, Tensor]:
        """Predict clean frames.

        Parameters
        ----------
        x : dict
            Noisy frames: ``trans (b, n, 3)`` in ångström, ``rot (b, n, 4)`` unit quaternions.
        t : Tensor, shape (b,)
            Time, 0 noise, 1 data.
        res_idx : Tensor, shape (b, n)
            Residue numbers.
        diffuse_mask : Tensor, shape (b, n), optional
            1 where frames move, 0 where they are given (a motif). All move when absent.
        res_mask : Tensor, shape (b, n), optional
            1 for residues, 0 for padding. Leave it out when nothing is padded: it is faster.
        trans_sc : Tensor, shape (b, n, 3), optional
            The previous prediction of ``trans``, for self-conditioning.
        until : Tensor, shape (b,), optional
            Where a move ends: then the chain that the mean velocity heads for, of a network of
            maps.

        Returns
        -------
        dict
            ``trans`` and ``rot`` of the predicted chain, in the same form as ``x``.
        """
        if diffuse_mask is None:
            diffuse_mask = torch.ones_like(res_idx, dtype=x["trans"].dtype)
        node_mask = None if res_mask is None else res_mask.unsqueeze(-1)
        moving = diffuse_mask.unsqueeze(-1)
        if node_mask is not None:
            moving = moving * node_mask

        node = self.node_feature_net(t, res_idx, diffuse_mask, res_mask)
        node = added(node, self.until, t, until)
        edge = self._embed_edges(node, x["trans"], trans_sc, diffuse_mask, res_mask)
        node = _masked(node, node_mask)
        key_bias = None if res_mask is None else (MASKED * (1 - res_mask))[:, None, None, :]
        quat = x["rot"] / torch.linalg.vector_norm(x["rot"], dim=-1, keepdim=True)
        trans = x["trans"] * ANGSTROM_TO_NM
        for b in range(self.sizes.blocks):
            rotmat = quat_to_rotmat(quat)
            update = self.trunk[f"ipa_{b}"](node, edge, rotmat, trans, res_mask)
            node = self.trunk[f"ipa_ln_{b}"](node + _masked(update, node_mask))
            update = self.trunk[f"seq_tfmr_{b}"](node, key_bias)
            node = node + self.trunk[f"post_tfmr_{b}"](update)
            node = _masked(self.trunk[f"node_transition_{b}"](node), node_mask)
            quat, trans = self.trunk[f"bb_update_{b}"](node, quat, rotmat, trans, moving)
            if b < self.sizes.blocks - 1:
                edge = self._update_edges(self.trunk[f"edge_transition_{b}"], node, edge, res_mask)
        return {"trans": trans / ANGSTROM_TO_NM, "rot": quat}

    def _embed_edges(
        self,
        node: Tensor,
        trans: Tensor,
        trans_sc: Tensor | None,
        diffuse_mask: Tensor,
        res_mask: Tensor | None,
    ) -> Tensor:
        embed = self.edge_feature_net
        from_i, from_j = embed.node_terms(node, diffuse_mask)
        table = embed.pair_table(trans.shape[1])
        rows = embed.pair_rows(trans, trans_sc)

        def update(rows: Tensor, from_i: Tensor, mask_i: Tensor | None) -> Tensor:
            edge = embed(rows, table, from_i, from_j, self.edge_dtype)
            return _mask_edges_(edge, mask_i, res_mask)

        return _by_rows(update, (rows, from_i, res_mask))

    def _update_edges(
        self, transition: nn.Module, node: Tensor, edge: Tensor, res_mask: Tensor | None
    ) -> Tensor:
        assert isinstance(transition, EdgeTransition)
        first_i, first_j, last_i, last_j = transition.node_terms(node, edge.dtype)

        def update(z: Tensor, first_i: Tensor, last_i: Tensor, mask_i: Tensor | None) -> Tensor:
            edge = transition(z, first_i, first_j, last_i, last_j)
            return _mask_edges_(edge, mask_i, res_mask)

        return _by_rows(update, (edge, first_i, last_i, res_mask), out=edge)


def _masked(node: Tensor, mask: Tensor | None) -> Tensor:
    return node if mask is None else node * mask


def _mask_edges_(edge: Tensor, mask_i: Tensor | None, mask_j: Tensor | None) -> Tensor:
    if mask_i is None or mask_j is None:
        return edge
    return edge.mul_((mask_i[:, :, None, None] * mask_j[:, None, :, None]).to(edge.dtype))


def _by_rows(
    update: Callable[..., Tensor], per_row: tuple[Tensor | None, ...], out: Tensor | None = None
) -> Tensor:
    """Compute edges for all residues i; on a CPU, in groups whose temporaries stay in cache.

    A group's temporaries are three to five times as wide as an edge. Where gradients are kept and
    the chains are long, the backward pass computes them once more. Without gradients ``out`` may
    be the edges that are updated: no group reads what another wrote.
    """
    first = next(x for x in per_row if x is not None)
    b, n = first.shape[:2]
    group = max(1, PAIRS_PER_CHUNK // (b * n))
    if first.device.type != "cpu" or group >= n:
        return update(*per_row)
    split = [[None] * -(-n // group) if x is None else x.split(group, dim=1) for x in per_row]
    groups = zip(*split, strict=True)
    if torch.is_grad_enabled():
        if b * n * n > PAIRS_KEPT:
            update = partial(checkpoint, update, use_reentrant=False)
        return torch.cat([update(*x) for x in groups], dim=1)
    for start, x in zip(range(0, n, group), groups, strict=True):
        part = update(*x)
        out = part.new_empty(b, n, *part.shape[2:]) if out is None else out
        out[:, start : start + group] = part
    assert out is not None
    return out
