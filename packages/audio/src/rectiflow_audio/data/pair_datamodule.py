"""Stored pairs of noise and latents as the data of a reflow or distillation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rectiflow.rectify import Mixed, PairDataset, PairStore
from rectiflow.training.data import FlowData
from torch import Tensor
from torch.utils.data import Dataset, Subset

from rectiflow_audio.data.datamodule import HeldOut
from rectiflow_audio.data.dataset import DrawnBatches, Index


class PairData(FlowData):
    """Training batches of pairs, and every so-manyth pair held out.

    Parameters
    ----------
    folder : str or Path
        Pairs written by :func:`rectiflow.rectify.generate_pairs`.
    batch_size : int, default 4
        Pairs per rank and step.
    real : str or Path, optional
        Pairs of true targets and their inverted noise, mixed into the training pairs.
    real_fraction : float, default 0.2
        Share of real pairs, if there are any.
    hold_out_every : int, optional
        One pair in so many is kept for validation; None keeps none.
    seed : int
        Of the order.
    num_workers, pin_memory
        As for :class:`~rectiflow_audio.data.datamodule.SeparationData`.

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
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        if hold_out_every is not None and hold_out_every < 2:
            raise ValueError(
                f"hold_out_every must be at least 2, got {hold_out_every}; 20 keeps one pair in "
                "twenty for validation, None keeps none."
            )
        self.store = PairStore(folder)
        pairs = PairDataset(self.store)
        rows = range(len(pairs))
        held_out = set(rows[hold_out_every - 1 :: hold_out_every]) if hold_out_every else set()
        kept = [i for i in rows if i not in held_out]
        if not kept:
            raise ValueError(
                f"{folder} has no pair to train on, got rejections {self.store.rejected}; "
                "expected at least one. Make more pairs."
            )
        train: Dataset[dict[str, Tensor]] = Subset(pairs, kept)
        size = len(kept)
        if real is not None:
            mixed = Mixed(PairDataset(PairStore(real)), train, real_fraction)
            train, size = mixed, len(mixed)
        super().__init__(
            _Rows(train),
            partial(_batches, size, batch_size, seed),
            HeldOut(Subset(pairs, sorted(held_out)), batch_size) if held_out else None,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


class _Rows(Dataset[dict[str, Tensor]]):
    """Takes a row, or (row, draw) of which a stored pair has only the row."""

    def __init__(self, dataset: Dataset[dict[str, Tensor]]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Index) -> dict[str, Tensor]:
        return self.dataset[index if isinstance(index, int) else index[0]]


def _batches(n_items: int, batch_size: int, seed: int, rank: int, world_size: int) -> DrawnBatches:
    return DrawnBatches(n_items, batch_size, seed=seed, rank=rank, world_size=world_size)
