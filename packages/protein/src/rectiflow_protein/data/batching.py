"""Which chains go into which training batch, as a pure function of the epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from itertools import cycle, islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.training.shuffle import shuffled_windows
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int

Batch = list[int]

_IDENTITY = (1.0, 0.0, 0.0, 0.0)
_PADDING = {"x0.rot": _IDENTITY, "x1.rot": _IDENTITY, "aatype": 20}  # zeros for anything else


@dataclass(frozen=True)
class Batches(ABC):
    """Batches of row indices for every epoch; ranks take turns at them.

    The same object and epoch always give the same batches, whatever was asked before, so a killed
    run can continue in the middle of an epoch. Large epochs are planned a window at a time, see
    :func:`~rectiflow.training.shuffle.shuffled_windows`. Subclasses say how a window is cut.

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
    shuffle : bool, default True
        Draw the chains of an epoch in random order.
    """

    lengths: Sequence[int] | Int[np.ndarray, " rows"]
    clusters: Sequence[object] | None = None
    _: KW_ONLY
    max_batch_size: int = 128
    max_num_res_squared: int = 1_000_000
    seed: int = 123
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.lengths) == 0 or np.min(self.lengths) < 1:
            raise ValueError(
                f"lengths must be positive and not empty, got {len(self.lengths)} of them; "
                "expected one number of residues per chain. Did the filters reject every chain?"
            )
        if self.clusters is not None and len(self.clusters) != len(self.lengths):
            raise ValueError(
                f"clusters must name one cluster per chain, got {len(self.clusters)}; expected "
                f"{len(self.lengths)}. Read both from the same metadata.csv."
            )
        if self.max_batch_size < 1 or self.max_num_res_squared < 1:
            raise ValueError(
                f"a batch must hold at least one chain, got max_batch_size={self.max_batch_size}, "
                f"max_num_res_squared={self.max_num_res_squared}; expected both >= 1. Raise them."
            )

    @cached_property
    def _members(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows cluster by cluster in the order of the clusters' text, where each begins, how many.

        Of each chain alone without clusters.
        """
        rows = np.arange(len(self.lengths))
        if self.clusters is None:
            return rows, rows, np.ones_like(rows)
        codes = np.unique(np.asarray(self.clusters).astype(str), return_inverse=True)[1]
        sizes = np.bincount(codes)
        return np.argsort(codes, kind="stable"), np.cumsum(sizes) - sizes, sizes

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Give the row indices of every batch of ``epoch``."""
        generator = torch.Generator().manual_seed(self.seed + epoch)
        rows, starts, sizes = self._members
        draw = np.random.default_rng([self.seed, epoch])
        chosen = rows[starts + draw.integers(0, sizes)]
        if not self.shuffle:
            return self._planned(chosen, generator)
        windows = shuffled_windows(len(chosen), generator)
        return (b for window in windows for b in self._planned(chosen[window.numpy()], generator))

    @abstractmethod
    def _planned(self, rows: np.ndarray, generator: torch.Generator) -> Iterator[Batch]:
        """Cut the rows of a window into batches."""


@dataclass(frozen=True)
class LengthBatches(Batches):
    """Batches of chains of one length, so that nothing is padded: the published batching.

    For length ``L`` a batch holds up to ``B = min(max_batch_size, max_num_res_squared // L² + 1)``
    chains. A group of ``k < B`` chains is repeated ``floor(B / k)`` times, each copy getting its
    own time and noise. An epoch has as many batches as chains or clusters, by going round again.

    References
    ----------
    Yue et al., "ReQFlow" (ICML 2025), official code; the row lists of one process agree with it
    exactly when no clusters are given. (Several processes there split the chains before they make
    batches; here they take turns at the batches of one process.) The chain drawn from a cluster
    differs, since the official code draws it with pandas.
    """

    def _planned(self, rows: np.ndarray, generator: torch.Generator) -> Iterator[Batch]:
        by_length: dict[int, list[int]] = {}
        for row, length in zip(rows.tolist(), np.asarray(self.lengths)[rows].tolist(), strict=True):
            by_length.setdefault(length, []).append(row)
        groups = [batch for length in sorted(by_length) for batch in self._cut(by_length, length)]
        turns = order(len(groups), generator)
        return islice(cycle([groups[i] for i in turns]), len(rows))

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
    batch this way, where :class:`LengthBatches` would repeat one chain.

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

    def _planned(self, rows: np.ndarray, generator: torch.Generator) -> Iterator[Batch]:
        """Cut the jittered order of lengths into batches within the budget."""
        jitter = torch.rand(len(rows), generator=generator, dtype=torch.float64).numpy() - 0.5
        lengths = np.asarray(self.lengths)[rows]
        ranked = np.argsort(
            lengths * (1 + self.spread * jitter) if self.shuffle else lengths, kind="stable"
        )
        cut: list[Batch] = []
        longest = 0
        for row, length in zip(rows[ranked].tolist(), lengths[ranked].tolist(), strict=True):
            longest = max(longest, length)
            if not cut or not self._fits(len(cut[-1]) + 1, longest):
                cut.append([])
                longest = length
            cut[-1].append(row)
        turns = order(len(cut), generator) if self.shuffle else range(len(cut))
        return (cut[i] for i in turns)

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
    return torch.randperm(n, generator=generator).tolist()
