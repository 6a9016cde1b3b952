"""Stored pairs of noise and the data it flows to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow.states import State
from rectiflow.storage.records import flatten_state, state_of
from rectiflow.storage.shards import MANIFEST, ShardError, ShardReader

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """One noise sample and the data point that a flow carries it to; no batch axis.

    Parameters
    ----------
    index : int
        Number of the sample; with the seed of the set it determines ``x0``.
    x0 : State or None
        Noise; None when it is drawn again from the seed instead of stored.
    x1 : State
        The flow's end point.
    cond : State, optional
        Condition of the sample.
    scores : mapping of str to float
        What filters measured.
    """

    index: int
    x0: State | None
    x1: State
    cond: State | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    def to_record(self) -> dict[str, Tensor]:
        """Return the pair as a flat record of tensors."""
        record = flatten_state("x1", self.x1)
        if self.x0 is not None:
            record |= flatten_state("x0", self.x0)
        if self.cond is not None:
            record |= flatten_state("cond", self.cond)
        for name, value in self.scores.items():
            record[f"scores.{name}"] = torch.tensor(value, dtype=torch.float64)
        record["index"] = torch.tensor(self.index)
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Tensor]) -> Pair:
        """Rebuild a pair from a record of :meth:`to_record`."""
        x1 = state_of(record, "x1")
        if x1 is None:
            raise KeyError(f"record has no 'x1', got {sorted(record)}; expected a stored pair.")
        scores: Any = state_of(record, "scores") or {}
        return cls(
            index=int(record["index"]),
            x0=state_of(record, "x0"),
            x1=x1,
            cond=state_of(record, "cond"),
            scores={name: float(value) for name, value in scores.items()},
        )


class PairStore:
    """Pairs in a folder, in the order of their index, however many workers wrote them.

    Parameters
    ----------
    folder : Path or str
        Written by :func:`~rectiflow.rectify.generate.generate_pairs`.
    verify : bool, default False
        Compare every shard with its SHA-256.

    Attributes
    ----------
    metadata : dict
        Solver, steps, guidance, hash of the teacher's weights, seed: what generation was told.
    rejected : dict of str to int
        How many candidates were left out, by reason.

    Raises
    ------
    FileNotFoundError
        When the folder holds no pairs.
    """

    def __init__(self, folder: Path | str, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        manifests = sorted(self.folder.glob(f"part-*/{MANIFEST}"))
        if not manifests:
            raise FileNotFoundError(
                f"{folder} holds no pairs; expected part-*/{MANIFEST}. Make them with "
                "generate_pairs."
            )
        self._parts = [_part(path.parent, verify) for path in manifests]
        own = [dict(part.metadata) for part in self._parts]
        parts = {metadata.pop("part")[1] for metadata in own}
        if len(parts) > 1 or any(metadata != own[0] for metadata in own):
            raise ValueError(
                f"the parts of {folder} come from different settings, got "
                f"{[part.folder.name for part in self._parts]}; expected one set of pairs. Keep "
                "each set in its own folder."
            )
        self.metadata = own[0]
        self._order = self._index_order()

    def _index_order(self) -> list[tuple[int, int]]:
        """Return (part, row) of every pair, sorted by the pair's index."""
        keyed: list[tuple[int, int, int]] = []
        for number, part in enumerate(self._parts):
            indices = part.column("index").tolist() if len(part) else []
            keyed += [(index, number, row) for row, index in enumerate(indices)]
        return [(number, row) for _, number, row in sorted(keyed)]

    def __len__(self) -> int:
        return len(self._order)

    def record(self, position: int) -> dict[str, Tensor]:
        """Return the flat record at a position."""
        part, row = self._order[position]
        return self._parts[part][row]

    def __getitem__(self, position: int) -> Pair:
        """Return the pair at a position."""
        return Pair.from_record(self.record(position))

    def lengths(self, name: str) -> list[int]:
        """Return the length of an array's first axis for each pair, for batching by length."""
        own = [part.lengths(name).tolist() if len(part) else [] for part in self._parts]
        return [own[part][row] for part, row in self._order]

    @property
    def rejected(self) -> dict[str, int]:
        """Return how many candidates were rejected, by reason."""
        total: dict[str, int] = {}
        for part in self._parts:
            for reason, count in part.progress.get("rejected", {}).items():
                total[reason] = total.get(reason, 0) + count
        return total

    @property
    def is_complete(self) -> bool:
        """Return whether every part is present and has tried all its candidates."""
        parts = self._parts[0].metadata["part"][1]
        done = sum(part.progress.get("tried", 0) for part in self._parts)
        return len(self._parts) == parts and done == self.metadata["num"]


def _part(folder: Path, verify: bool) -> ShardReader:
    """Open a part, and refuse one that does not tell what pairs tell."""
    part = ShardReader(folder, verify=verify)
    told, done = part.metadata, part.progress
    place = told.get("part")
    numbers = (
        *(place if isinstance(place, list) else ()),
        told.get("num"),
        told.get("seed"),
        done.get("tried", 0),
    )
    rejected = done.get("rejected", {})
    is_whole = len(numbers) == 5 and isinstance(rejected, dict)
    if not is_whole or any(type(n) is not int for n in (*numbers, *rejected.values())):
        raise ShardError(folder, "holds no part of a set of pairs. Make the pairs again.")
    index = part.arrays.get("index", {"ragged": True})
    if len(part) and (index["ragged"] or not _names(part.arrays, "x1")):
        raise ShardError(folder, "holds records that are no pairs. Make the pairs again.")
    return part


def _names(arrays: Mapping[str, Any], state: str) -> list[str]:
    return [name for name in arrays if name == state or name.startswith(f"{state}.")]


class PairDataset(Dataset[dict[str, Tensor]]):
    """Training records of a pair store: ``x0``, ``x1`` and ``cond``.

    Parameters
    ----------
    store : PairStore
        The pairs.
    noise : callable, optional
        ``noise(generator, x1) -> x0`` draws the noise of a pair again when it is not stored; it
        must be the function that the pairs were generated with.
    """

    def __init__(
        self, store: PairStore, noise: Callable[[torch.Generator, State], State] | None = None
    ) -> None:
        self.store, self.noise = store, noise
        has_noise = len(store) == 0 or store[0].x0 is not None
        if not has_noise and noise is None:
            raise ValueError(
                f"pairs of {store.folder} are stored without x0, got noise=None; expected the "
                "function that draws it again from each pair's generator."
            )

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        """Return the record of one pair."""
        from rectiflow.rectify.generate import sample_generator

        pair = self.store[position]
        x0 = pair.x0
        if x0 is None:
            assert self.noise is not None
            x0 = self.noise(sample_generator(self.store.metadata["seed"], pair.index), pair.x1)
        record = flatten_state("x0", x0) | flatten_state("x1", pair.x1)
        return record if pair.cond is None else record | flatten_state("cond", pair.cond)
