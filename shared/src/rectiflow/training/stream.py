"""A deterministic stream of batches that can be entered at any point, by any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rectiflow.randomness import counter_generator, counter_seed
from rectiflow.training.shuffle import shuffled_windows


class BatchSource(Protocol):
    """What batches an epoch has: a pure function of the epoch, the same for every rank."""

    def batches(self, epoch: int) -> Iterable[Sequence[Any]]:
        """Give the batches of dataset indices of epoch 0, 1, ...

        They may be planned while they are iterated. An index is whatever the dataset's
        ``__getitem__`` takes.
        """
        ...


class ShuffledBatches:
    """Batches of one size from an endless sequence: a fresh order of all items, and another.

    The item at a place of the sequence depends on the seed and the place alone, not on the size of
    the batches; a batch may hold the last items of one order and the first of the next. An epoch
    has the batches that begin in its order.

    Parameters
    ----------
    n_items : int
        Length of the dataset.
    batch_size : int
        Items per batch.
    seed : int
        Fixes all orders; see :func:`~rectiflow.training.shuffle.shuffled_windows`.

    Examples
    --------
    >>> source = ShuffledBatches(4, 3)
    >>> batches = [batch for epoch in range(3) for batch in source.batches(epoch)]
    >>> [len(batch) for batch in batches], sorted(sum(batches, [])[:4])
    ([3, 3, 3, 3], [0, 1, 2, 3])
    """

    def __init__(self, n_items: int, batch_size: int, *, seed: int = 0) -> None:
        if not 1 <= batch_size <= n_items:
            raise ValueError(
                f"dataset of {n_items} items cannot fill one batch of {batch_size}; expected "
                f"1 <= batch_size <= {n_items}."
            )
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed

    def batches(self, epoch: int) -> Iterator[list[Any]]:
        """Give the batches that begin in an epoch, planned as they are iterated."""
        n, size = self.n_items, self.batch_size
        first, stop = -(-epoch * n // size), -(-(epoch + 1) * n // size)
        if first == stop:
            return
        items = islice(self._items(epoch), first * size - epoch * n, None)
        for _ in range(first, stop):
            yield list(islice(items, size))

    def _items(self, epoch: int) -> Iterator[Any]:
        """Give all items from the beginning of an epoch on."""
        for turn in count(epoch):
            generator = counter_generator(self.seed, "epoch", turn)
            for window in shuffled_windows(self.n_items, generator):
                yield from self._window(window.tolist(), turn)

    def _window(self, rows: list[int], epoch: int) -> list[Any]:
        """Return the indices of some rows in an epoch."""
        return rows


class DrawnBatches(ShuffledBatches):
    """As :class:`ShuffledBatches`, of (row, draw): every row once for each draw.

    A small data set fills a large batch by several draws of the same rows.

    Examples
    --------
    >>> batch, = DrawnBatches(2, 4).batches(0)
    >>> sorted(batch)
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """

    def __init__(self, n_items: int, batch_size: int, *, seed: int = 0) -> None:
        if n_items < 1 or batch_size < 1:
            raise ValueError(
                f"batches need items, got n_items={n_items} and batch_size={batch_size}; expected "
                "both at least 1."
            )
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed

    def _window(self, rows: list[int], epoch: int) -> list[tuple[int, int]]:
        return [(row, epoch) for row in rows]


def shuffled(n_items: int, batch_size: int, seed: int) -> ShuffledBatches:
    """Return :class:`ShuffledBatches`."""
    return ShuffledBatches(n_items, batch_size, seed=seed)


def drawn(n_items: int, batch_size: int, seed: int) -> DrawnBatches:
    """Return :class:`DrawnBatches`."""
    return DrawnBatches(n_items, batch_size, seed=seed)


class StepStream:
    """An endless batch sampler that concatenates the epochs of a source, and deals them to ranks.

    Batches are numbered over all ranks; of each ``world_size`` in turn, this rank takes one.

    Parameters
    ----------
    source : BatchSource
        Gives the batches of each epoch.
    start_batch : int, default 0
        Number of the first batch: how many were consumed by all ranks before.
    start_item : int, optional
        Items to leave out: how many were consumed before. By default those of ``start_batch``
        batches. Given, a run goes on without repeating or skipping an item though its batches have
        another size now.
    rank, world_size : int
        Which batches are this rank's.

    Examples
    --------
    >>> source = ShuffledBatches(10, 3)
    >>> first = iter(StepStream(source))
    >>> consumed = [next(first) for _ in range(4)]
    >>> next(first) == next(iter(StepStream(source, start_batch=4)))
    True
    """

    def __init__(
        self,
        source: BatchSource,
        start_batch: int = 0,
        start_item: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if start_batch < 0:
            raise ValueError(f"start_batch must be at least 0, got {start_batch}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}.")
        self.source, self.start_batch, self.start_item = source, start_batch, start_item
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return (batch for _, batch in self.numbered())

    def numbered(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Give this rank's batches with their numbers."""
        dealt = islice(self._all(), self.rank, None, self.world_size)
        return zip(count(self.start_batch + self.rank, self.world_size), dealt, strict=False)

    def _all(self) -> Iterator[Sequence[Any]]:
        """Give the batches of all ranks from where the stream starts."""
        by_item = self.start_item is not None
        left: int = self.start_batch if self.start_item is None else self.start_item
        for epoch in count():
            batch: Sequence[Any] = ()
            for batch in self.source.batches(epoch):
                size = len(batch) if by_item else 1
                if left < size:
                    yield batch[left:]
                left = max(0, left - size)
            if not batch and epoch == 0:
                raise ValueError(
                    "epoch 0 has no batches; expected at least one. Check that the data set is "
                    "not empty after filtering."
                )


def draw_key(seed: int, number: int) -> tuple[int, int, int]:
    """Return the key of what is drawn for a batch: its number in the stream, whichever rank has it.

    So one process that accumulates two batches draws what two processes of one batch each draw.
    """
    return seed, 0, number


class NumberedBatches(Dataset[Any]):
    """Whole batches of a dataset, by their number in the stream and their indices."""

    def __init__(
        self,
        dataset: Dataset[Any],
        finish: Callable[[dict[str, Tensor], int], dict[str, Tensor]],
        collate: Callable[..., dict[str, Tensor]],
    ) -> None:
        self.dataset, self.finish, self.collate = dataset, finish, collate

    def __getitem__(self, key: tuple[int, Sequence[Any]]) -> dict[str, Tensor]:
        number, indices = key
        return self.finish(self.collate([self.dataset[i] for i in indices]), number)


class Numbered:
    """A stream whose batches come with their numbers, counted over all ranks."""

    def __init__(self, stream: StepStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any]]]:
        return self.stream.numbered()


def step_loader(
    dataset: Dataset[Any],
    source: BatchSource,
    *,
    start_batch: int = 0,
    start_item: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    finish: Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """Return an endless loader over a :class:`StepStream`.

    Parameters
    ----------
    dataset : Dataset
        Indexed by what ``source`` yields.
    source : BatchSource
        The batches of all ranks.
    start_batch, start_item, rank, world_size
        As for :class:`StepStream`. In a data module, the first two are ``batches_seen`` and
        ``items_seen`` of ``self.trainer.lightning_module``.
    finish : callable, optional
        ``finish(batch, number) -> batch``, called where the batch is loaded; ``number`` counts
        the batches of the stream.
    **options
        Passed to ``DataLoader``: ``num_workers``, ``collate_fn``, ``pin_memory``, ...
    """
    if options.get("num_workers"):
        options.setdefault("persistent_workers", True)
    # The loader draws a base seed for its workers when it starts; keep it off the global RNG.
    generator = torch.Generator().manual_seed(counter_seed("loader", start_batch))
    stream: Any = StepStream(source, start_batch, start_item, rank=rank, world_size=world_size)
    if finish is None:
        return DataLoader(dataset, batch_sampler=stream, generator=generator, **options)
    whole = NumberedBatches(dataset, finish, options.pop("collate_fn", default_collate))
    numbered: Any = Numbered(stream)
    return DataLoader(whole, batch_size=None, sampler=numbered, generator=generator, **options)
