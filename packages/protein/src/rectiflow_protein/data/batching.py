"""Which chains go into which training batch, as a pure function of the epoch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

Batch = list[int]

_IDENTITY = (1.0, 0.0, 0.0, 0.0)
_PADDING = {"x0.rot": _IDENTITY, "x1.rot": _IDENTITY, "aatype": 20}  # zeros for anything else


@dataclass(frozen=True)
class Batches(ABC):
    """Batches of row indices for every epoch and rank.

    The same object, epoch and rank always give the same list, whatever was asked before, so a
    killed run can continue in the middle of an epoch. Subclasses say how an epoch is cut.

    Parameters
    ----------
    lengths : sequence of int, shape (rows,)
        Residues of each chain.
    clusters : sequence, shape (rows,), optional
        Cluster of each chain. Given, each epoch draws one chain per cluster; otherwise every chain
        is used once.
    max_batch_size : int, default 128
        Most chains in a batch.
    max_num_res_squared : int, default 1_000_000
        Budget of a batch in residues squared, which is what the pair representation costs.
    seed : int, default 123
        Seed of epoch 0; epoch ``e`` uses ``seed + e``.
    world_size, rank : int
        How many processes share the epoch, and which of them this is.
    shuffle : bool, default True
        Draw the chains of an epoch in random order.
    """

    lengths: Sequence[int]
    clusters: Sequence[object] | None = None
    _: KW_ONLY
    max_batch_size: int = 128
    max_num_res_squared: int = 1_000_000
    seed: int = 123
    world_size: int = 1
    rank: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.lengths) == 0 or min(self.lengths) < 1:
            raise ValueError(
                f"lengths must be positive and not empty, got {len(self.lengths)} of them; "
                "expected one number of residues per chain. Did the filters reject every chain?"
            )
        if self.clusters is not None and len(self.clusters) != len(self.lengths):
            raise ValueError(
                f"clusters must name one cluster per chain, got {len(self.clusters)}; expected "
                f"{len(self.lengths)}. Read both from the same metadata.csv."
            )
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank is outside the world, got rank {self.rank} of {self.world_size}; expected "
                "0 <= rank < world_size. Pass the values of the distributed process group."
            )
        if self.max_batch_size < 1 or self.max_num_res_squared < 1:
            raise ValueError(
                f"a batch must hold at least one chain, got max_batch_size={self.max_batch_size}, "
                f"max_num_res_squared={self.max_num_res_squared}; expected both >= 1. Raise them."
            )

    @cached_property
    def members(self) -> list[list[int]]:
        """Rows of each cluster, clusters in the order of their text; of each chain without them."""
        if self.clusters is None:
            return [[row] for row in range(len(self.lengths))]
        rows: dict[str, list[int]] = {}
        for row, cluster in enumerate(self.clusters):
            rows.setdefault(str(cluster), []).append(row)
        return [rows[key] for key in sorted(rows)]

    @abstractmethod
    def batches(self, epoch: int) -> list[Batch]:
        """Row indices of every batch of ``epoch`` for this rank."""

    def _rows(self, epoch: int, generator: torch.Generator) -> list[int]:
        """Rows of an epoch: one per cluster or all of them, shuffled."""
        draw = np.random.default_rng([self.seed, epoch])
        rows = [int(draw.choice(rows)) for rows in self.members]
        return [rows[i] for i in order(len(rows), generator)] if self.shuffle else rows


@dataclass(frozen=True)
class LengthBatches(Batches):
    """Batches of chains of one length, so that nothing is padded: the published batching.

    For length ``L`` a batch holds up to ``B = min(max_batch_size, max_num_res_squared // L² + 1)``
    chains. A group of ``k < B`` chains is repeated ``floor(B / k)`` times, each copy getting its
    own time and noise. Every rank makes ``ceil(chains or clusters / world_size)`` batches, by
    going round its share again or by cutting it.

    References
    ----------
    Yue et al., "ReQFlow" (ICML 2025), official code; the row lists agree with it exactly when no
    clusters are given. The chain drawn from a cluster differs, since the official code draws it
    with pandas.
    """

    def batches(self, epoch: int) -> list[Batch]:
        """Row indices of every batch of ``epoch`` for this rank."""
        wanted = math.ceil(len(self.members) / self.world_size)
        share = self._share(epoch)
        return (share * math.ceil(wanted / len(share)))[:wanted]

    def _share(self, epoch: int) -> list[Batch]:
        """Batches of one pass over this rank's chains, in random order."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        rows = self._rows(epoch, generator)
        if len(self.lengths) > self.world_size and len(rows) > self.rank:
            rows = rows[self.rank :: self.world_size]
        by_length: dict[int, list[int]] = {}
        for row in rows:
            by_length.setdefault(int(self.lengths[row]), []).append(row)
        groups = [batch for length in sorted(by_length) for batch in self._cut(by_length, length)]
        return [groups[i] for i in order(len(groups), generator)]

    def _cut(self, by_length: Mapping[int, list[int]], length: int) -> list[Batch]:
        """Batches of the chains of one length."""
        size = min(self.max_batch_size, self.max_num_res_squared // length**2 + 1)
        rows = by_length[length]
        chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [chunk * (size // len(chunk)) for chunk in chunks]


@dataclass(frozen=True)
class PaddedBatches(Batches):
    """Batches of distinct chains of similar length, to be padded together and masked.

    Chains are sorted by ``length · (1 + spread · u)``, ``u ~ U(-½, ½)`` drawn anew each epoch, and
    cut greedily so that ``chains · longest² <= max_num_res_squared``; a chain over the budget is a
    batch by itself. Small data sets, whose lengths are mostly different, keep distinct chains in a
    batch this way, where :class:`LengthBatches` would repeat one chain. Ranks receive batches of
    neighbouring length at the same step; the last step repeats early batches if the number of
    batches is no multiple of ``world_size``.

    Parameters
    ----------
    lengths, clusters, ...
        As in :class:`Batches`; without ``shuffle`` there is no jitter either.
    spread : float, default 0.1
        Relative jitter of the sort; larger mixes lengths more and pads more.
    """

    spread: float = field(default=0.1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.spread < 2:
            raise ValueError(
                f"spread is out of range, got {self.spread}; expected 0 <= spread < 2. "
                "0 sorts by length alone."
            )

    def batches(self, epoch: int) -> list[Batch]:
        """Row indices of every batch of ``epoch`` for this rank."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        cut = self._cut(self._rows(epoch, generator), generator)
        missing = -len(cut) % self.world_size
        cut += (cut * missing)[:missing]
        steps = [cut[i : i + self.world_size] for i in range(0, len(cut), self.world_size)]
        turns = order(len(steps), generator) if self.shuffle else range(len(steps))
        return [steps[i][self.rank] for i in turns]

    def _cut(self, rows: list[int], generator: torch.Generator) -> list[Batch]:
        """Cut the jittered order of lengths into batches within the budget."""
        jitter = torch.rand(len(rows), generator=generator, dtype=torch.float64).numpy() - 0.5
        lengths = np.asarray(self.lengths)[rows]
        keys = lengths * (1 + self.spread * jitter) if self.shuffle else lengths
        batches: list[Batch] = []
        longest = 0
        for i in np.argsort(keys, kind="stable"):
            length = int(lengths[i])
            longest = max(longest, length)
            if not batches or not self._fits(len(batches[-1]) + 1, longest):
                batches.append([])
                longest = length
            batches[-1].append(rows[i])
        return batches

    def _fits(self, chains: int, longest: int) -> bool:
        return chains <= self.max_batch_size and chains * longest**2 <= self.max_num_res_squared


def collate(items: Sequence[Mapping[str, Tensor]], *, multiple: int = 1) -> dict[str, Tensor]:
    """Stack items of a :class:`BackboneDataset`, padding each to the longest.

    Padded residues have ``res_mask`` 0, identity quaternions, unknown residue type and zeros
    elsewhere.

    Parameters
    ----------
    items : sequence of dict
        Per-residue tensors of shape (n_i, ...), the same keys in each.
    multiple : int, default 1
        Round the padded length up to a multiple of this, so that a compiled network sees few
        shapes.

    Returns
    -------
    dict of Tensor, shape (b, n, ...)
        The batch.
    """
    if not items:
        raise ValueError("nothing to collate, got 0 items; expected at least one. Check the batch.")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple}; expected an int >= 1.")
    longest = max(len(next(iter(item.values()))) for item in items)
    length = -(-longest // multiple) * multiple
    return {key: torch.stack([_pad(item[key], key, length) for item in items]) for key in items[0]}


def _pad(x: Tensor, key: str, length: int) -> Tensor:
    """Extend the first axis to ``length`` with the padding value of ``key``."""
    fill = torch.as_tensor(_PADDING.get(key, 0), dtype=x.dtype)
    return torch.cat([x, fill.expand(length - len(x), *x.shape[1:])])


def order(n: int, generator: torch.Generator) -> list[int]:
    """Return a random permutation of ``range(n)``."""
    return [int(i) for i in torch.randperm(n, generator=generator)]
