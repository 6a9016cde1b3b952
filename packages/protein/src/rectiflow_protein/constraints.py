"""What samples have to be like, and how that is held while they are made.

A constraint is a value; bound to the chains of a batch it becomes a correction, which changes what
the network predicts before the flow follows it. No network is trained for it, and no gradient is
taken through one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rectiflow_protein.result import BackboneSample

Predict = Callable[..., "dict[str, Tensor]"]
"""Called as :class:`~rectiflow_protein.networks.ReQFlowNetwork` is."""


@dataclass(frozen=True)
class Chains:
    """The chains of a batch: residues and number of each, the seed, and where they are."""

    lengths: Sequence[int]
    indices: Sequence[int]
    seed: int
    device: torch.device


class Correction:
    """A constraint in a batch."""

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the clean frames to go for, given those predicted at time t."""
        return frames

    def finish(self, row: int, sample: BackboneSample) -> BackboneSample:
        """Return the sample of one row with what the constraint knows of it."""
        return sample


class Constraint:
    """What samples have to be like."""

    def check(self, length: int) -> None:
        """Refuse chains of so many residues if they cannot be like that.

        Raises
        ------
        ValueError
            Says what would be possible.
        """

    def tokens(self, length: int) -> int:
        """Return how many residues the network sees for a chain of this length."""
        return length

    def miss(self, sample: BackboneSample) -> float:
        """Return by how much a finished sample misses, 0 if it does not."""
        return 0.0

    def around(self, network: Predict) -> Predict:
        """Return how the network is to be called."""
        return network

    def on(self, chains: Chains) -> Correction:
        """Return the correction of a batch."""
        return Correction()


def tokens_of(length: int, constraints: Sequence[Constraint]) -> int:
    """Return how many residues the network sees for a chain under these constraints."""
    return max([length, *(constraint.tokens(length) for constraint in constraints)])
