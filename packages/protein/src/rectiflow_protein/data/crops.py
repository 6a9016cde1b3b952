"""Batches of random pieces of chains, all of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from rectiflow_protein.data.batching import Batches, order


class Crop(NamedTuple):
    """Residues ``start`` to ``stop`` of a row."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class CropBatches(Batches):
    """Batches of crops of one length, drawn for each batch.

    An epoch uses each chain once (one of each cluster, with clusters). A batch draws its length
    uniformly, then takes the next ``max_num_res_squared // length²`` chains that are as long and
    one random piece of each, so nothing is padded and long chains give ever new examples.

    Parameters
    ----------
    lengths, clusters, ...
        As in :class:`Batches`; every chain has at least ``shortest`` residues.
    shortest, longest : int, default 40 and 96
        Range of crop lengths. A chain shorter than a batch's length waits for another batch.
    """

    shortest: int = field(default=40, kw_only=True)
    longest: int = field(default=96, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.shortest <= min(self.longest, *self.lengths):
            raise ValueError(
                f"crops need chains of at least their shortest length, got crops of "
                f"{self.shortest} to {self.longest} residues and a chain of {min(self.lengths)}; "
                "expected 1 <= shortest <= longest and no shorter chain. Filter by length."
            )

    def batches(self, epoch: int) -> Sequence[list[Crop]]:  # type: ignore[override]
        """Crops of every batch of ``epoch`` for this rank; ranks get crops of one length."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        waiting = self._rows(epoch, generator)
        own = []
        while waiting:
            bound = min(self.longest, max(self.lengths[row] for row in waiting))
            length = _integer(self.shortest, bound, generator)
            size = min(self.max_batch_size, max(1, self.max_num_res_squared // length**2))
            fits = [row for row in waiting if self.lengths[row] >= length]
            taken = fits[: size * self.world_size]
            waiting = [row for row in waiting if row not in set(taken)]
            crops = [self._crop(row, length, generator) for row in taken]
            share = -(-len(crops) // self.world_size)
            crops += crops[: share * self.world_size - len(crops)]
            own.append(crops[self.rank :: self.world_size])
        return [own[i] for i in order(len(own), generator)]

    def _crop(self, row: int, length: int, generator: torch.Generator) -> Crop:
        start = _integer(0, self.lengths[row] - length, generator)
        return Crop(row, start, start + length)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
