"""Batches of random pieces of chains, all of one length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from rectiflow.randomness import coin

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

    A piece of a large protein is wider than a small protein of its length. With ``whole``, some
    batches take their length from a chain that is waiting and the chains nearest above it, of
    which next to nothing is cut.

    Parameters
    ----------
    lengths, clusters, ...
        As in :class:`Batches`; every chain has at least ``shortest`` residues.
    shortest, longest : int, default 40 and 96
        Range of crop lengths. A chain shorter than a batch's length waits for another batch.
    whole : float, default 0
        Share of batches of whole chains, as long as chains of up to ``longest`` residues wait.
    """

    shortest: int = field(default=40, kw_only=True)
    longest: int = field(default=96, kw_only=True)
    whole: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.shortest <= min(self.longest, np.min(self.lengths)):
            raise ValueError(
                f"crops need chains of at least their shortest length, got crops of "
                f"{self.shortest} to {self.longest} residues and a chain of "
                f"{np.min(self.lengths)}; expected 1 <= shortest <= longest and no shorter chain. "
                "Filter by length."
            )
        if not 0 <= self.whole <= 1:
            raise ValueError(
                f"whole must be a share of batches, got {self.whole}; expected 0 to 1. "
                "Use 0 for crops alone."
            )

    def _planned(  # type: ignore[override]
        self, rows: np.ndarray, generator: torch.Generator
    ) -> Iterator[list[Crop]]:
        waiting, lengths = rows, np.asarray(self.lengths)[rows]
        made = []
        while len(waiting):
            short = lengths[lengths <= self.longest]
            is_whole = len(short) > 0 and self.whole > 0 and coin(self.whole, generator)
            if is_whole:
                length = int(short[_integer(0, len(short) - 1, generator)])
            else:
                length = _integer(self.shortest, min(self.longest, int(lengths.max())), generator)
            size = min(self.max_batch_size, max(1, self.max_num_res_squared // length**2))
            taken = np.flatnonzero(lengths >= length)
            if is_whole:
                taken = taken[np.argsort(lengths[taken], kind="stable")]
            taken = taken[:size]
            made.append([self._crop(row, length, generator) for row in waiting[taken].tolist()])
            waiting, lengths = np.delete(waiting, taken), np.delete(lengths, taken)
        return (made[i] for i in order(len(made), generator))

    def _crop(self, row: int, length: int, generator: torch.Generator) -> Crop:
        start = _integer(0, int(self.lengths[row]) - length, generator)
        return Crop(row, start, start + length)


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Draw from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
