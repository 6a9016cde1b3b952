"""Reads training checkpoints, without running code and without Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from rectiflow.storage.tensor_files import CheckpointError, read_torch


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a training checkpoint on the CPU, memory-mapped, without running code.

    Raises
    ------
    CheckpointError
        When it is damaged, cut short, or of another origin.
    """
    checkpoint = read_torch(path)
    known = isinstance(checkpoint, dict) and type(checkpoint.get("global_step")) is int
    if not known or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(path, "is no checkpoint of a training run, expected last.ckpt")
    return checkpoint


def network_weights(path: Path | str, average: int | None = 0) -> dict[str, Tensor]:
    """Return the network's tensors from a training checkpoint.

    Parameters
    ----------
    path : Path or str
        A ``last.ckpt`` or ``best.ckpt``.
    average : int or None, default 0
        Which moving average replaces the parameters; None for the raw ones.

    Raises
    ------
    ValueError
        When the checkpoint has no such average.
    """
    checkpoint = read_checkpoint(path)
    prefix = "objective.network."
    weights = {
        name[len(prefix) :]: value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    if average is None:
        return weights
    averages = checkpoint["flow_training"]["ema"]
    if not 0 <= average < len(averages):
        raise ValueError(
            f"checkpoint {path} has {len(averages)} moving averages, got average={average}; "
            "use None for the raw parameters."
        )
    for name, value in averages[average]["average"].items():
        weights[name] = value.to(weights[name].dtype)
    return weights
