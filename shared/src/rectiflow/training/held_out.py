"""Held-out batches, the same at each validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, default_collate


class HeldOut:
    """Batches of a dataset's items, the same at each iteration.

    Parameters
    ----------
    dataset : Dataset
        A pure function of the index.
    batches : int or sequence of sequence of int
        Items per batch, in order, of which the last may have fewer; or the batches themselves.
    collate : callable, optional
        As for a ``DataLoader``.

    Examples
    --------
    >>> list(HeldOut([1, 2, 3], 2))
    [tensor([1, 2]), tensor([3])]
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: int | Sequence[Sequence[int]],
        collate: Callable[[list[Any]], Any] = default_collate,
    ) -> None:
        self.dataset, self.collate = dataset, collate
        if isinstance(batches, int):
            rows = range(len(dataset))  # type: ignore[arg-type]
            batches = [rows[start : start + batches] for start in range(0, len(rows), batches)]
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return (self.collate([self.dataset[i] for i in batch]) for batch in self.batches)
