"""Every tensor of a file accounted for: used, known to be of no use, or complained of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from rectiflow.storage.tensor_files import CheckpointError
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)

GROUPS = 32
"""Of every normalisation in the authors' networks, which have no setting for it."""


@dataclass
class Check:
    """What was wrong with the tensors of one network."""

    title: str
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [
            f"{len(names)} {what} {_shortened(names)}"
            for names, what in (
                (self.missing, "missing"),
                (self.unexpected, "unknown"),
                (self.misshapen, "of another shape"),
                (self.broken, "with NaN or infinity"),
            )
            if names
        ]
        return f"{self.title}: {', '.join(said)}" if said else ""


def empty(make: Callable[[], Network]) -> Network:
    """Make a network whose parameters have shapes but no values, to be filled at once."""
    with torch.device("meta"):
        return make()


def filled(network: Network, state: Mapping[str, Tensor]) -> Network:
    """Fill a network that has no values yet."""
    network.load_state_dict(dict(state), assign=True)
    return network.eval()


def fitting(
    network: nn.Module, keys: Mapping[str, str], tensors: Mapping[str, Tensor], check: Check
) -> dict[str, Tensor]:
    """Return copies of a network's tensors by its own names; what does not fit goes to check."""
    own, fitting = network.state_dict(), {}
    for ours, official in keys.items():
        if official not in tensors:
            check.missing.append(official)
        elif (tensor := tensors[official]).squeeze().shape != own[ours].squeeze().shape:
            check.misshapen.append(
                f"{official} {tuple(tensor.shape)} instead of {tuple(own[ours].shape)}"
            )
        elif not bool(torch.isfinite(tensor).all()):
            check.broken.append(official)
        else:  # attention by 1x1 convolution becomes a matrix
            fitting[ours] = tensor.detach().float().reshape(own[ours].shape).clone()
    known = set(keys.values())
    check.unexpected += [name for name in tensors if name not in known]
    return fitting


def nothing(network: str, names: str) -> str:
    """Say that a file has nothing of a network."""
    return (
        f"has no tensors of the {network}, got none named {names}; expected a checkpoint of "
        "FlowSep. Is this file for another network"
    )


def raise_together(checks: Iterable[Check], path: Path | str) -> None:
    """Raise one CheckpointError for all that is wrong."""
    wrong = [check for check in checks if str(check)]
    if wrong:
        raise CheckpointError(
            path,
            f"does not fit: {'; '.join(map(str, wrong))}. Is this file for the same networks and "
            "sizes",
            missing=[name for check in wrong for name in check.missing],
            unexpected=[name for check in wrong for name in check.unexpected],
        )


def _shortened(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"[{', '.join(names[:limit])}]{more}"


def demand_groups(groups: int, network: str) -> None:
    """Refuse to write a network that the authors' class would build otherwise.

    Raises
    ------
    ValueError
        When its normalisations have other than 32 groups, which no tensor shows: the authors'
        code would load it and give other numbers.
    """
    if groups != GROUPS:
        raise ValueError(
            f"the {network} has {groups} groups in its normalisations; expected {GROUPS}, which "
            "the authors' code is written for. Train a network with groups=32 for it."
        )
