"""``rectiflow protein train``: a run from a composed config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli import train
from rectiflow_cli.errors import UsageError
from rectiflow_cli.protein.official_keys import reject_official_keys

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rectiflow.training import FlowData, FlowTraining
    from rectiflow.training.validation import Evaluate
    from rectiflow_protein.networks import ReQFlowNetwork

KEYS = (*train.KEYS, "edge_dtype")
"""What may stand at the top of a config."""

EDGE_DTYPES = ("float32", "bfloat16")


def main(argv: list[str]) -> int:
    """Train by ``configs/protein/train.yaml`` with the overrides."""
    return run("train", argv)


def run(config: str, argv: Sequence[str]) -> int:
    """Train by a primary config of ``configs/protein`` with the overrides."""
    reject_official_keys(argv)
    return train.run(RECIPE, config, argv)


def pretrained_network(weights: str) -> ReQFlowNetwork:
    """Load a network to train further.

    Parameters
    ----------
    weights : str
        A shipped name, a folder, the authors' checkpoint, or ``owner/name``.
    """
    from rectiflow_protein.pipeline import BackbonePipeline

    return BackbonePipeline.from_pretrained(weights).network.train()


def _require(cfg: DictConfig) -> None:
    if cfg.edge_dtype not in EDGE_DTYPES:
        raise UsageError(f"unknown edge_dtype {cfg.edge_dtype!r}; known: {', '.join(EDGE_DTYPES)}.")


def _set_up(cfg: DictConfig, training: FlowTraining, data: FlowData) -> None:
    import torch

    network: Any = training.network
    network.edge_dtype = getattr(torch, cfg.edge_dtype)


def _evaluate(cfg: DictConfig, training: FlowTraining, data: FlowData) -> Evaluate | None:
    from hydra.utils import instantiate

    return instantiate(cfg.validation, _convert_="all")


def _save(cfg: DictConfig, training: FlowTraining, folder: Path, card: Mapping[str, Any]) -> None:
    network: Any = training.network
    network.save_pretrained(folder, **card)


RECIPE = train.Recipe(
    domain="protein",
    keys=("edge_dtype",),
    shown=("train/loss", "val/loss", "val/ca_ca_valid", "val/helix", "val/strand"),
    require=_require,
    set_up=_set_up,
    evaluate=_evaluate,
    save=_save,
    told=lambda cfg: {"edge_dtype": cfg.edge_dtype},
    next_step=lambda cfg, training, folder: (
        f"rectiflow protein sample --weights {folder} --length 80 -o samples"
    ),
)
