"""The authors' checkpoint of DRDM, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from rectiflow.storage.faults import CheckpointError
from rectiflow.storage.pretrained import load_strict, load_tensors
from torch import Tensor

from rectiflow_imaging.networks.recovery import RecoveryNetwork


def load_official(path: Path | str) -> RecoveryNetwork:
    """Load a checkpoint of the authors' RecResACNet, in two or three dimensions.

    Its sizes are those of its tensors.

    Raises
    ------
    CheckpointError
        When it is none.
    """
    tensors: Mapping[str, Tensor] = load_tensors(path)
    try:
        axes, channels = tensors["conv_out.weight"].ndim - 2, len(tensors["te1.2.bias"])
        network = RecoveryNetwork(len(tensors["time_embed.weight"]), axes, channels)
    except (KeyError, ValueError) as error:
        raise CheckpointError(path, f"is no checkpoint of DRDM's RecResACNet ({error})") from error
    load_strict(network, tensors, path)
    return network


def write_official(network: RecoveryNetwork, path: Path | str) -> Path:
    """Write a checkpoint for the authors' code."""
    torch.save(dict(network.state_dict()), path)
    return Path(path)
