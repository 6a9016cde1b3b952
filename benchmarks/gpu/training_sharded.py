"""TripoSG's transformer at its released size trained data parallel and shared out (FSDP2).

Uses all devices that are visible. Both strategies take the same batches and draws, so their losses
agree; shared out, a device holds its part of parameters, gradients, moments and averages only.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from entry import parse, write
from rectiflow.flow import Flow
from rectiflow.training import (
    FlowData,
    FlowObjective,
    FlowTraining,
    ShuffledBatches,
    fit,
    network_weights,
    read_metrics,
)
from rectiflow_shape.networks import TripoSGDiT

STEPS, WARM = 12, 4
TOLERANCE = 0.02
"""Relative difference of the last losses: the sums over devices are made in another order."""


def network_of(cuda: bool) -> TripoSGDiT:
    torch.manual_seed(0)
    return TripoSGDiT() if cuda else TripoSGDiT(8, 32, 2, 3, context=16)


def data_of(cuda: bool, items: int) -> list[dict[str, torch.Tensor]]:
    """Make latents and contexts that mean nothing."""
    generator = torch.Generator().manual_seed(0)
    latent, context = ((2048, 64), (257, 1024)) if cuda else ((8, 8), (4, 16))
    return [
        {
            "x1": torch.randn(latent, generator=generator),
            "cond.context": torch.randn(context, generator=generator),
        }
        for _ in range(items)
    ]


def trained(strategy: str, folder: Path, devices: int, cuda: bool, data: Any) -> dict[str, Any]:
    """Train a few steps; empty in all processes but the first."""
    network = network_of(cuda)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    training = FlowTraining(
        FlowObjective(network, Flow()),
        partial(torch.optim.AdamW, lr=1e-5),
        ema=[0.99],
        grad_clip=1.0,
    )
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    fit(
        training,
        FlowData(data, ShuffledBatches(len(data), 1)),
        folder,
        max_steps=STEPS,
        checkpoint_every=STEPS,
        log_every=1,
        accelerator="gpu" if cuda else "cpu",
        devices=devices,
        strategy=strategy,
        progress=False,
        overwrite=True,
    )
    if not training.trainer.is_global_zero:
        return {}
    weights = network_weights(folder / "checkpoints" / "last.ckpt")
    rows = read_metrics(folder / "metrics.csv")
    losses = [float(row["train/loss"]) for row in rows]
    rate = median(float(row["train/samples_per_s"]) for row in rows[WARM:])
    shutil.rmtree(folder)
    return {
        "seconds_per_step": devices / rate,
        "peak_gibibytes": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "losses": losses,
        "checkpoint_is_whole": {name: value.shape for name, value in weights.items()} == shapes,
    }


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    cuda = args.device.startswith("cuda")
    devices = torch.cuda.device_count() if cuda else 1
    data = data_of(cuda, 2 * devices)
    rows = {
        strategy: trained(strategy, args.out / f"sharded-{strategy}", devices, cuda, data)
        for strategy in ("ddp", "fsdp")
    }
    if not all(rows.values()):  # another process than the first
        return
    first, second = (row["losses"][-1] for row in rows.values())
    passed = abs(first - second) <= TOLERANCE * abs(first)
    passed = passed and all(row["checkpoint_is_whole"] for row in rows.values())
    write(args, "training-sharded", {"devices": devices, "passed": passed, **rows})


if __name__ == "__main__":
    main()
