"""A training of seconds: run by the resume tests, in their process and as a script to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from rectiflow.flow import Flow
from rectiflow.training import (
    FlowData,
    FlowObjective,
    FlowTraining,
    PowerDecay,
    RunFolder,
    ShuffledBatches,
    fit,
)
from torch import Tensor, nn


class TinyVelocity(nn.Module):
    """A velocity network with dropout, which draws from the global generator."""

    def __init__(self, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 2)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


class KillAt(Callback):
    """Sends SIGKILL to this very process after a number of micro-batches."""

    def __init__(self, micro_batches: int) -> None:
        self.micro_batches = micro_batches

    def on_train_batch_end(self, trainer: Any, training: Any, *_: Any) -> None:
        if training.batches_seen == self.micro_batches:
            os.kill(os.getpid(), signal.SIGKILL)


def tiny_training(seed: int = 3) -> FlowTraining:
    torch.manual_seed(0)
    return FlowTraining(
        FlowObjective(TinyVelocity(), Flow()),
        partial(torch.optim.AdamW, lr=1e-2),
        partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100),
        ema=[0.99, PowerDecay(0.1)],
        grad_clip=1.0,
        seed=seed,
    )


def tiny_data(workers: int = 0) -> FlowData:
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    records: Any = [{"x1": point} for point in points]
    held_out = [{"x1": points[:8] + 0.1}, {"x1": points[8:12]}]
    return FlowData(records, ShuffledBatches(50, 8, seed=5), held_out, num_workers=workers)


def tiny_run(folder: Path | str, **options: Any) -> tuple[RunFolder, FlowTraining]:
    training = options.pop("training", None) or tiny_training()
    settings: dict[str, Any] = {
        "max_steps": 20,
        "checkpoint_every": 4,
        "log_every": 1,
        "accumulate": 2,
        "accelerator": "cpu",
        "devices": 1,
        "progress": False,
        **options,
    }
    return fit(training, tiny_data(), folder, **settings), training


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[2])
    kill_at = settings.pop("kill_at", None)
    tiny_run(sys.argv[1], callbacks=[KillAt(kill_at)] if kill_at else [], **settings)
