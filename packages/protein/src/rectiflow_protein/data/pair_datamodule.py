"""Stored pairs of noise and sample as the data of a reflow training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rectiflow.rectify import Mixed, PairStore
from rectiflow.training.data import FlowData
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_protein.data.batching import Batches, PaddedBatches, collate
from rectiflow_protein.reflow import PairBackbones


class PairDataModule(FlowData):
    """Training batches of pairs, and every so-manyth pair held out.

    Parameters
    ----------
    folder : str or Path
        Pairs written by :func:`rectiflow.rectify.generate_pairs`.
    batching : callable, default PaddedBatches
        Makes the :class:`Batches` of one rank from ``lengths, rank=, world_size=``.
    real : str or Path, optional
        Pairs of real chains and their inverted noise, mixed into the training pairs.
    real_fraction : float, default 0.2
        Share of real pairs, if there are any.
    hold_out_every : int, optional
        One pair in so many is kept for validation; None keeps none.
    multiple : int, default 1
        Padded lengths are rounded up to a multiple of this.
    num_workers : int, default 0
        Processes that load batches.
    pin_memory : bool, default False
        Copy batches through pinned memory, for a GPU.

    Raises
    ------
    FileNotFoundError
        If a folder holds no pairs.
    ValueError
        If every pair was rejected, or a share is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        batching: Callable[..., Batches] = PaddedBatches,
        *,
        real: str | Path | None = None,
        real_fraction: float = 0.2,
        hold_out_every: int | None = 20,
        multiple: int = 1,
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
        held_out = set(rows[hold_out_every - 1 :: hold_out_every]) if hold_out_every else set()
        train = PairBackbones(self.store, [i for i in rows if i not in held_out])
        dataset, lengths = _mixed(train, real, real_fraction)
        padded = partial(collate, multiple=multiple)
        super().__init__(
            dataset,
            lambda rank, world_size: batching(lengths, rank=rank, world_size=world_size),
            _held_out(PairBackbones(self.store, sorted(held_out)), padded) if held_out else None,
            collate_fn=padded,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


def _mixed(
    train: PairBackbones, real: str | Path | None, fraction: float
) -> tuple[Dataset[dict[str, Tensor]], list[int]]:
    """Mix real pairs in, and return the length of each item as well."""
    lengths = train.lengths
    if real is None:
        return train, lengths
    others = PairBackbones(PairStore(real))
    own = {id(train): lengths, id(others): others.lengths}
    mixed = Mixed(others, train, fraction)
    origins = [mixed.origin(i) for i in range(len(mixed))]
    return mixed, [own[id(origin)][position] for origin, position in origins]


def _held_out(
    pairs: PairBackbones, padded: Callable[..., dict[str, Tensor]]
) -> list[dict[str, Tensor]]:
    """Batches in order of length, the same at each validation."""
    source = PaddedBatches(pairs.lengths, max_num_res_squared=500_000, shuffle=False)
    return [padded([pairs[i] for i in batch]) for batch in source.batches(0)]
