"""Training and measuring small backbone networks within a time limit: two entries share it."""

from __future__ import annotations

import argparse
import copy
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timed_training
import torch
from rectiflow.storage.files import write_json
from rectiflow.storage.splits import split_of
from rectiflow.training import FlowData, FlowTraining, network_weights
from rectiflow_protein.data import (
    BackboneDataset,
    LengthFilter,
    PaddedBatches,
    PreparedBackbones,
    collate,
    read_archive,
)
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.metrics import backbone_metrics
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.objective import BackboneObjective
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.residues import ATOM5, BACKBONE_ATOMS

if TYPE_CHECKING:
    from torch import Tensor

SHORTEST, LONGEST = 40, 128  # residues, as in configs/protein/experiment/small.yaml
FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}
PAIRS_PER_STEP = 1_000_000  # batch times squared length; small.yaml has 64 000 for two cores
PADDED_TO = 16  # few shapes, so that the allocator's blocks are used again
_NO_CB = [ATOM5.index(atom) for atom in BACKBONE_ATOMS]


def chains(data: Path | None) -> tuple[BackboneDataset, BackboneDataset, list[int], list[str]]:
    """Return training and held-out chains, and lengths and clusters of the training chains."""
    if data is None:
        raise SystemExit("no --data given; expected prepared shards, or backbones.npz")
    if data.is_dir() and not (data / "backbones.npz").is_file():
        prepared, window = PreparedBackbones(data), [LengthFilter(SHORTEST, LONGEST)]
        rows = {split: prepared.rows(split, window).tolist() for split in FRACTIONS}
        records: Any = prepared.records
        lengths, clusters = prepared.table["length"].tolist(), prepared.table["cluster"].tolist()
    else:
        records, lengths, clusters = _archived(data / "backbones.npz" if data.is_dir() else data)
        kept = [i for i, n in enumerate(lengths) if SHORTEST <= n <= LONGEST]
        splits = {i: split_of(clusters[i], FRACTIONS) for i in kept}
        rows = {split: [i for i in kept if splits[i] == split] for split in FRACTIONS}
    train, held_out = rows["train"], rows["valid"] + rows["test"]
    return (
        BackboneDataset(records, train),
        BackboneDataset(records, held_out),
        [lengths[i] for i in train],
        [clusters[i] for i in train],
    )


def _archived(path: Path) -> tuple[list[dict[str, Tensor]], list[int], list[str]]:
    archive = read_archive(path)
    records = [
        {
            "coords": torch.as_tensor(b.coords),
            "aatype": torch.as_tensor(b.aatype),
            "residue_index": torch.as_tensor(b.residue_index),
            "chain_index": torch.zeros(len(b.coords), dtype=torch.int16),
        }
        for b in archive.backbones
    ]
    names = archive.clusters or [str(i) for i in range(len(records))]
    return records, [len(record["coords"]) for record in records], names


def held_out_batches(dataset: BackboneDataset) -> list[dict[str, Tensor]]:
    lengths = [len(dataset[i]["x1.trans"]) for i in range(len(dataset))]
    if not lengths:
        return []
    source = PaddedBatches(lengths, max_num_res_squared=PAIRS_PER_STEP, shuffle=False)
    return [collate([dataset[i] for i in batch]) for batch in source.batches(0)]


def train(
    network: ReQFlowNetwork,
    data: FlowData,
    folder: Path,
    args: argparse.Namespace,
    *,
    lr: float,
    max_steps: int,
    ema: float,
) -> int:
    """Train until ``max_steps`` or until this call's time is up; return the steps done."""
    network.edge_dtype = torch.bfloat16
    objective = BackboneObjective(network, loss=BackboneLoss(auxiliary_from=0.25, clamp=20.0))
    training = FlowTraining(
        objective,
        functools.partial(torch.optim.AdamW, lr=lr),
        functools.partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.01, total_iters=100),
        ema=[ema],
        grad_clip=1.0,
        seed=0,
    )
    return timed_training.train(training, data, folder, args, max_steps=max_steps)


def export(network: ReQFlowNetwork, run: Path, folder: Path, **card: Any) -> ReQFlowNetwork:
    """Save the averaged weights of a run, and return a network that has them."""
    averaged = copy.deepcopy(network).cpu()
    averaged.load_state_dict(network_weights(run / "checkpoints" / "last.ckpt"))
    averaged.eval().save_pretrained(folder, **card)
    return averaged


def quality(
    network: ReQFlowNetwork, steps: int, args: argparse.Namespace, num: int = 128
) -> dict[str, float]:
    """Mean metrics of ``num`` samples of 60 to 128 residues, and seconds per sample."""
    network.edge_dtype = torch.float32
    pipe = BackbonePipeline(network.to(args.device))
    lengths = [60 + 68 * i // max(num - 1, 1) for i in range(num)]
    pipe(lengths[:1], steps=1)  # the first call loads kernels
    result = pipe(lengths, steps=steps, seed=0)
    rows = [backbone_metrics(torch.from_numpy(s.atoms[:, _NO_CB])) for s in result.samples]
    means = {k: _mean([row[k] for row in rows]) for k in rows[0]}
    return {**means, "seconds_per_sample": result.seconds / num, "samples": num}


def data_quality(dataset: BackboneDataset, num: int = 128) -> dict[str, float]:
    """Mean metrics of natural chains, the row that samples are compared with."""
    coords = [dataset.records[row]["coords"].float() for row in dataset.rows[:num]]
    rows = [backbone_metrics(chain) for chain in coords]
    return {k: _mean([row[k] for row in rows]) for k in rows[0]} if rows else {}


def _mean(values: Sequence[Tensor]) -> float:
    """Mean over the chains where the metric is defined."""
    return round(float(torch.stack([v.float() for v in values]).nanmean()), 5)


def kept(path: Path) -> dict[str, Any]:
    """Read what an earlier call has measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(path: Path, found: dict[str, Any]) -> None:
    """Store what has been measured so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, found, indent=1)
