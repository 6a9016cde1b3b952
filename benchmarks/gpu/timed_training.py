"""Training that fits into the calls of the queue: each stops in time, the next goes on."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from entry import seconds_left
from rectiflow.training import FlowData, FlowTraining, fit, read_checkpoint

RESERVE = 60.0  # seconds at the end of a call for the last checkpoint, export and report


def train(
    training: FlowTraining,
    data: FlowData,
    folder: Path,
    args: argparse.Namespace,
    *,
    max_steps: int,
    **options: Any,
) -> int:
    """Train until ``max_steps`` or until this call's time is up; return the steps done.

    Further options are those of :func:`rectiflow.training.fit`.
    """
    logging.basicConfig(level=logging.INFO)
    last = folder / "checkpoints" / "last.ckpt"
    done = read_checkpoint(last)["global_step"] if last.exists() else 0
    left = seconds_left(args) - RESERVE
    if done < max_steps and left > 0:
        fit(
            training,
            data,
            folder,
            max_steps=max_steps,
            max_time_s=left,
            checkpoint_every=250,
            validate_every=500 if data.validation else None,
            resume=last.exists(),
            accelerator="gpu" if args.device.startswith("cuda") else "cpu",
            devices=1,
            progress=False,
            **options,
        )
        done = read_checkpoint(last)["global_step"]
    return done
