"""The authors' checkpoints, read and written.

A released checkpoint is a Lightning file whose ``state_dict`` names each tensor ``model.<name>``,
with a ``config.yaml`` beside it. Our networks carry the same names, so nothing is renamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from rectiflow.storage.files import whole_file, write_text
from rectiflow.storage.pretrained import load_strict
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor

from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

PREFIX = "model."
"""What the authors' Lightning module puts before the network's names."""

IGNORED = "_folding_model."
"""ESMFold's weights, which come along when a checkpoint was saved during their inference."""

CONFIG = "config.yaml"


def load_official(path: Path | str) -> ReQFlowNetwork:
    """Read a network from the authors' checkpoint; no code in the file is executed.

    Sizes come from ``config.yaml`` beside the checkpoint, or from the tensors' shapes where there
    is none. Every tensor is accounted for.

    Parameters
    ----------
    path : Path or str
        The ``.ckpt`` file, or the release folder that holds one.

    Returns
    -------
    ReQFlowNetwork
        In evaluation mode, float32, on the CPU.

    Raises
    ------
    FileNotFoundError
        When there is no such file, or the folder holds no checkpoint.
    CheckpointError
        When the file is damaged, tensors are missing or unknown, or the configuration asks for
        parts that the released networks do not have.
    """
    checkpoint = _checkpoint_in(Path(path))
    tensors = {
        name.removeprefix(PREFIX): tensor
        for name, tensor in load_tensors(checkpoint).items()
        if not name.startswith(IGNORED)
    }
    config = checkpoint.with_name(CONFIG)
    if config.is_file():
        sizes = sizes_from_config(config)
    else:
        sizes = sizes_from_tensors(tensors, checkpoint)
    network = ReQFlowNetwork(sizes)
    load_strict(network, tensors, checkpoint)
    return network.eval()


def to_official(network: ReQFlowNetwork) -> dict[str, Tensor]:
    """Return the network's tensors under the names of the authors' checkpoints.

    Save them as ``{"state_dict": to_official(network)}`` to load them with the official code.
    """
    return {PREFIX + name: tensor for name, tensor in network.state_dict().items()}


def save_official(network: ReQFlowNetwork, folder: Path) -> list[Path]:
    """Write a checkpoint and its configuration for the authors' code, and return both files."""
    checkpoint, config = folder / "reqflow.ckpt", folder / CONFIG
    with whole_file(checkpoint) as part:
        torch.save({"state_dict": to_official(network)}, part)
    write_text(config, yaml.safe_dump({"model": official_config(network.sizes)}))
    return [checkpoint, config]


def official_config(sizes: ReQFlowConfig) -> dict[str, Any]:
    """Return the ``model`` block of the authors' ``config.yaml`` for a network's sizes."""
    return {
        "node_embed_size": sizes.c_s,
        "edge_embed_size": sizes.c_z,
        "symmetric": False,
        "node_features": {
            "c_s": sizes.c_s,
            "c_pos_emb": sizes.c_pos_emb,
            "c_timestep_emb": sizes.c_timestep_emb,
            "embed_chain": False,
        },
        "edge_features": {
            "c_s": sizes.c_s,
            "c_p": sizes.c_z,
            "feat_dim": sizes.feat_dim,
            "num_bins": sizes.num_bins,
            "self_condition": True,
            "embed_chain": False,
            "embed_diffuse_mask": True,
        },
        "ipa": {
            "c_s": sizes.c_s,
            "c_z": sizes.c_z,
            "c_hidden": sizes.c_hidden,
            "no_heads": sizes.heads,
            "no_qk_points": sizes.qk_points,
            "no_v_points": sizes.v_points,
            "seq_tfmr_num_heads": sizes.tfmr_heads,
            "seq_tfmr_num_layers": sizes.tfmr_layers,
            "num_blocks": sizes.blocks,
        },
    }


_OFFICIAL_KEYS = {
    "c_s": "node_embed_size",
    "c_z": "edge_embed_size",
    "c_pos_emb": "node_features.c_pos_emb",
    "c_timestep_emb": "node_features.c_timestep_emb",
    "feat_dim": "edge_features.feat_dim",
    "num_bins": "edge_features.num_bins",
    "c_hidden": "ipa.c_hidden",
    "heads": "ipa.no_heads",
    "qk_points": "ipa.no_qk_points",
    "v_points": "ipa.no_v_points",
    "tfmr_heads": "ipa.seq_tfmr_num_heads",
    "tfmr_layers": "ipa.seq_tfmr_num_layers",
    "blocks": "ipa.num_blocks",
}
_FIXED = {
    "symmetric": False,
    "node_features.embed_chain": False,
    "edge_features.embed_chain": False,
    "edge_features.self_condition": True,
    "edge_features.embed_diffuse_mask": True,
}


def sizes_from_config(path: Path | str) -> ReQFlowConfig:
    """Read network sizes from the ``model`` block of the authors' ``config.yaml``.

    References such as ``${model.node_embed_size}`` are followed.

    Raises
    ------
    CheckpointError
        When the block is absent or incomplete, or asks for parts that the released networks do
        not have.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is not a YAML file ({error})") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("model"), Mapping):
        raise CheckpointError(path, "has no 'model' block; expected the authors' config.yaml")
    missing = [key for key in _OFFICIAL_KEYS.values() if _lookup(document, f"model.{key}") is None]
    if missing:
        raise CheckpointError(path, f"lacks model keys {missing}", missing=missing)
    for key, expected in _FIXED.items():
        found = _lookup(document, f"model.{key}")
        if found is not None and found != expected:
            raise CheckpointError(
                path, f"has model.{key}={found}; expected {expected} as in the released networks"
            )
    return ReQFlowConfig(
        **{name: int(_lookup(document, f"model.{key}")) for name, key in _OFFICIAL_KEYS.items()}
    )


def sizes_from_tensors(tensors: Mapping[str, Tensor], path: Path | str) -> ReQFlowConfig:
    """Infer network sizes from tensor shapes.

    The split of the node features and the transformer's number of heads leave no trace in the
    shapes: the published ratios are assumed, equal position and time embeddings and 4 heads.

    Raises
    ------
    CheckpointError
        When a tensor that shows a size is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tensors:
            raise CheckpointError(
                path,
                f"has no tensor {name!r}, got {sorted(tensors)[:4]} and more; expected a ReQFlow "
                "network",
                missing=[name],
            )
        return tuple(tensors[name].shape)

    c_s, node_in = shape("node_feature_net.linear.weight")
    c_z, edge_in = shape("edge_feature_net.edge_embedder.0.weight")
    feat_dim = shape("edge_feature_net.linear_s_p.weight")[0]
    heads = shape("trunk.ipa_0.head_weights")[0]
    qk_points = shape("trunk.ipa_0.linear_q_points.weight")[0] // (3 * heads)
    kv_points = shape("trunk.ipa_0.linear_kv_points.weight")[0] // (3 * heads)
    return ReQFlowConfig(
        c_s=c_s,
        c_z=c_z,
        c_pos_emb=(node_in - 1) // 3,
        c_timestep_emb=(node_in - 1) // 3,
        feat_dim=feat_dim,
        num_bins=(edge_in - 3 * feat_dim - 2) // 2,
        c_hidden=shape("trunk.ipa_0.linear_q.weight")[0] // heads,
        heads=heads,
        qk_points=qk_points,
        v_points=kv_points - qk_points,
        tfmr_heads=ReQFlowConfig.tfmr_heads,
        tfmr_layers=_count(tensors, r"trunk\.seq_tfmr_0\.layers\.(\d+)\."),
        blocks=_count(tensors, r"trunk\.ipa_(\d+)\."),
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {match[1] for name in tensors if (match := re.match(pattern, name))}
    return len(found)


def _lookup(document: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key, following ``${other.key}`` references."""
    value: Any = document
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    reference = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None or reference[1] == key:
        return value
    return _lookup(document, reference[1])


def _checkpoint_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.ckpt"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{path} must hold one checkpoint, got {[p.name for p in found]}; expected a single "
            "*.ckpt file. Name the file itself."
        )
    return found[0]
