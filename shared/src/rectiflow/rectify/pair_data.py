"""Stored pairs as the data of a reflow or a distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from rectiflow.rectify.mixing import Mixed
from rectiflow.rectify.pairs import PairDataset, PairStore
from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import BatchSource, drawn

Example = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
Batching = Callable[..., BatchSource]
"""``batching(lengths)`` makes the batches of items of these lengths."""


class PairData(FlowData):
    """Training batches of pairs, and every so-manyth pair held out.

    Pairs of one shape are batched by number; ragged ones by their lengths.

    Parameters
    ----------
    folder : str or Path
        Pairs written by :func:`rectiflow.rectify.generate_pairs`.
    batch_size : int, default 4
        Pairs per rank and step, where they have one shape.
    real : str or Path, optional
        Pairs of real data and their inverted noise, mixed into the training pairs.
    real_fraction : float, default 0.2
        Share of real pairs, if there are any.
    hold_out_every : int, optional
        One pair in so many is kept for validation; None keeps none.
    seed : int
        Of the order, where pairs have one shape.
    example : callable, optional
        Makes the training example of a record with ``x0``, ``x1`` and ``cond``.
    length_of : str, optional
        The array whose first axis is a pair's length, such as ``"x1.trans"``.
    batching, held_out : callable, optional
        Make batches of lengths, for training and for validation.
    collate : callable, optional
        Makes a batch of examples.
    **loader
        ``num_workers``, ``pin_memory``, ...: as for :class:`FlowData`.

    Raises
    ------
    FileNotFoundError
        If a folder holds no pairs.
    ValueError
        If there is no pair to train on, or a share is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 4,
        *,
        real: str | Path | None = None,
        real_fraction: float = 0.2,
        hold_out_every: int | None = 20,
        seed: int = 0,
        example: Example | None = None,
        length_of: str | None = None,
        batching: Batching | None = None,
        held_out: Batching | None = None,
        collate: Callable[[list[Any]], Any] = default_collate,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if hold_out_every is not None and hold_out_every < 2:
            raise ValueError(
                f"hold_out_every must be at least 2, got {hold_out_every}; 20 keeps one pair in "
                "twenty for validation, None keeps none."
            )
        self.store = PairStore(folder)
        rows = range(len(self.store))
        kept_out = rows[hold_out_every - 1 :: hold_out_every] if hold_out_every else rows[:0]
        train: Any = Pairs(self.store, sorted(set(rows) - set(kept_out)), example)
        if not len(train):
            raise ValueError(
                f"{folder} has no pair to train on, got rejections {self.store.rejected}; "
                "expected at least one. Loosen the filter or make more pairs."
            )
        if real is not None:
            store = PairStore(real)
            train = Mixed(Pairs(store, range(len(store)), example), train, real_fraction)
        validation = Pairs(self.store, kept_out, example)
        batches: BatchSource
        if batching is None or held_out is None or length_of is None:
            batches = drawn(len(train), batch_size, seed)
            last: Any = batch_size
        else:
            batches = batching(_lengths(train, length_of))
            last = list(held_out(validation.lengths(length_of)).batches(0)) if kept_out else ()
        super().__init__(
            train,
            batches,
            HeldOut(validation, last, collate) if kept_out else None,
            collate_fn=collate,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


class Pairs(Dataset[dict[str, Tensor]]):
    """Some pairs of a store as training examples; an index may also be (row, draw)."""

    def __init__(
        self, store: PairStore, rows: Sequence[int], example: Example | None = None
    ) -> None:
        self.store, self.rows, self.example = store, list(rows), example
        self.pairs = PairDataset(store)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        row = index if isinstance(index, int) else index[0]
        record = self.pairs[self.rows[row]]
        return record if self.example is None else self.example(record)

    def lengths(self, name: str) -> list[int]:
        """Return the length of each pair's array of that name."""
        own = self.store.lengths(name)
        return [own[row] for row in self.rows]


def _lengths(pairs: Pairs | Mixed, name: str) -> list[int]:
    if isinstance(pairs, Pairs):
        return pairs.lengths(name)
    own = {id(each): each.lengths(name) for each in (pairs.real, pairs.generated)}
    origins = [pairs.origin(i) for i in range(len(pairs))]
    return [own[id(origin)][position] for origin, position in origins]
