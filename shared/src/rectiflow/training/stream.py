"""A deterministic stream of batches that can be entered at any point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from rectiflow.randomness import counter_generator, counter_seed


class BatchSource(Protocol):
    """What batches an epoch has: a pure function of the epoch."""

    def batches(self, epoch: int) -> Sequence[Sequence[Any]]:
        """Return this rank's batches of dataset indices in epoch 0, 1, ...

        Every rank must return the same number of batches. An index is whatever the dataset's
        ``__getitem__`` takes.
        """
        ...


class ShuffledBatches:
    """Fixed-size batches of a fresh permutation per epoch; the incomplete tail is left out.

    Parameters
    ----------
    n_items : int
        Length of the dataset.
    batch_size : int
        Items per rank and batch.
    seed : int
        With the epoch, fixes the permutation; all ranks share it.
    rank, world_size : int
        Of ``batch_size * world_size`` consecutive items each rank takes every world_size-th.
    """

    def __init__(
        self, n_items: int, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or n_items < batch_size * world_size:
            raise ValueError(
                f"dataset of {n_items} items cannot fill one batch of {batch_size} on "
                f"{world_size} rank(s); expected 1 <= batch_size <= {n_items // world_size}."
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}.")
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of one epoch."""
        generator = counter_generator(self.seed, "epoch", epoch)
        order = torch.randperm(self.n_items, generator=generator)
        n_batches = self.n_items // (self.batch_size * self.world_size)
        own = order[self.rank :: self.world_size][: n_batches * self.batch_size]
        return own.view(n_batches, self.batch_size).tolist()


class DrawnBatches:
    """Batches of (row, draw): every row once, in a fresh order, for each draw.

    A small data set fills a large batch by several draws of the same rows.

    Parameters
    ----------
    n_items : int
        Rows of the dataset.
    batch_size : int
        Items per rank and batch.
    seed : int
        Fixes the order; all ranks share it.
    rank, world_size : int
        As for :class:`ShuffledBatches`.

    Examples
    --------
    >>> batch, = DrawnBatches(2, 4).batches(0)
    >>> sorted(batch)
    [(0, 0), (0, 1), (1, 0), (1, 1)]
    """

    def __init__(
        self, n_items: int, batch_size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if n_items < 1 or batch_size < 1:
            raise ValueError(
                f"batches need items, got n_items={n_items} and batch_size={batch_size}; expected "
                "both at least 1."
            )
        self.n_items = n_items
        self.draws = -(-batch_size * world_size // n_items)  # of each row in an epoch
        self._shuffled = ShuffledBatches(
            n_items * self.draws, batch_size, seed=seed, rank=rank, world_size=world_size
        )

    def batches(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Return the batches of one epoch."""
        first = epoch * self.draws
        return [
            [(i % self.n_items, first + i // self.n_items) for i in batch]
            for batch in self._shuffled.batches(epoch)
        ]


def shuffled(n_items: int, batch_size: int, seed: int) -> Callable[[int, int], ShuffledBatches]:
    """Return what gives each rank its :class:`ShuffledBatches`."""
    return lambda rank, world_size: ShuffledBatches(
        n_items, batch_size, seed=seed, rank=rank, world_size=world_size
    )


def drawn(n_items: int, batch_size: int, seed: int) -> Callable[[int, int], DrawnBatches]:
    """Return what gives each rank its :class:`DrawnBatches`."""
    return lambda rank, world_size: DrawnBatches(
        n_items, batch_size, seed=seed, rank=rank, world_size=world_size
    )


class StepStream:
    """An endless batch sampler that concatenates the epochs of a source.

    Parameters
    ----------
    source : BatchSource
        Gives the batches of each epoch.
    start_batch : int, default 0
        Batches to leave out: how many were consumed before a run was interrupted.

    Examples
    --------
    >>> source = ShuffledBatches(10, 3)
    >>> first = iter(StepStream(source))
    >>> consumed = [next(first) for _ in range(4)]
    >>> next(first) == next(iter(StepStream(source, start_batch=4)))
    True
    """

    def __init__(self, source: BatchSource, start_batch: int = 0) -> None:
        if start_batch < 0:
            raise ValueError(f"start_batch must be at least 0, got {start_batch}.")
        self.source, self.start_batch = source, start_batch

    def __iter__(self) -> Iterator[Sequence[Any]]:
        epoch, left = 0, self.start_batch
        while True:
            batches = self.source.batches(epoch)
            if not batches:
                raise ValueError(
                    f"epoch {epoch} has no batches; expected at least one. Check that the data "
                    "set is not empty after filtering."
                )
            yield from batches[left:]
            left = max(0, left - len(batches))
            epoch += 1


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
    """A stream whose batches come with their numbers, counted from its start."""

    def __init__(self, stream: StepStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any]]]:
        return enumerate(self.stream, self.stream.start_batch)


def step_loader(
    dataset: Dataset[Any],
    source: BatchSource,
    *,
    start_batch: int = 0,
    finish: Callable[[dict[str, Tensor], int], dict[str, Tensor]] | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """Return an endless loader over a :class:`StepStream`.

    Parameters
    ----------
    dataset : Dataset
        Indexed by what ``source`` yields.
    source : BatchSource
        This rank's batches.
    start_batch : int
        In a data module, ``self.trainer.lightning_module.batches_seen``.
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
    stream: Any = StepStream(source, start_batch)
    if finish is None:
        return DataLoader(dataset, batch_sampler=stream, generator=generator, **options)
    whole = NumberedBatches(dataset, finish, options.pop("collate_fn", default_collate))
    numbered: Any = Numbered(stream)
    return DataLoader(whole, batch_size=None, sampler=numbered, generator=generator, **options)
