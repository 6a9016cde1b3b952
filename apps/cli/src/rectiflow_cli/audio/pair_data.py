"""Stored pairs of noise and latents as the data of a reflow training."""

from __future__ import annotations

from pathlib import Path

import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, PairDataset, PairStore, generate_pairs
from rectiflow.training.data import FlowData
from rectiflow_audio.data.datamodule import HeldOut
from rectiflow_audio.data.dataset import DrawnBatches
from torch import Tensor
from torch.utils.data import Dataset


class PairData(FlowData):
    """Training batches of pairs, and every so-manyth pair held out.

    Parameters
    ----------
    folder : str or Path
        Pairs written by :func:`rectiflow.rectify.generate_pairs`, all of one shape.
    batch_size : int, default 4
        Pairs per rank and step.
    hold_out_every : int, optional
        One pair in so many is kept for validation; None keeps none.
    seed : int
        Of the order.
    num_workers : int, default 0
        Processes that load batches.
    pin_memory : bool, default False
        Copy batches through pinned memory, for a GPU.

    Raises
    ------
    FileNotFoundError
        If the folder holds no pairs.
    ValueError
        If every pair was rejected, or ``hold_out_every`` is out of range.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 4,
        *,
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
        rows = range(len(self.store))
        held_out = set(rows[hold_out_every - 1 :: hold_out_every]) if hold_out_every else set()
        train = Rows(self.store, [row for row in rows if row not in held_out])
        if not len(train):
            raise ValueError(
                f"{folder} has no pair to train on, got {len(rows)} in all; expected at least one. "
                "Make more."
            )
        super().__init__(
            train,
            lambda rank, world_size: DrawnBatches(
                len(train), batch_size, seed=seed, rank=rank, world_size=world_size
            ),
            HeldOut(Rows(self.store, sorted(held_out)), batch_size) if held_out else None,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


class Rows(Dataset[dict[str, Tensor]]):
    """Some pairs of a store; an index may carry the number of its draw, which changes nothing."""

    def __init__(self, store: PairStore, rows: list[int]) -> None:
        self.pairs, self.rows = PairDataset(store), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        return self.pairs[self.rows[index[0] if isinstance(index, tuple) else index]]


def synthetic_pairs(
    out: Path | str,
    *,
    num: int,
    channels: int = 8,
    frames: int = 8,
    mels: int = 16,
    width: int = 384,
    seed: int = 0,
) -> Path:
    """Make a folder of pairs that mean nothing, for trials of the training.

    Parameters
    ----------
    out : Path or str
        The folder.
    num : int
        How many.
    channels, frames, mels : int
        Shape of the latents; those of an autoencoder with three levels are a quarter of the
        log-mel.
    width : int
        Channels of the query's states, of which there is one.
    seed : int
        With the number of a pair, fixes it.

    Returns
    -------
    Path
        The folder.
    """

    def sample(indices: list[int]) -> list[Pair]:
        pairs = []
        for i in indices:
            generator = counter_generator("synthetic pair", seed, i)
            x0, x1, mixture = torch.randn(3, channels, frames, mels, generator=generator)
            cond = {
                "mixture": mixture,
                "context": torch.randn(1, width, generator=generator),
                "context_mask": torch.ones(1),
            }
            pairs.append(Pair(index=i, x0=x0, x1=x1, cond=cond))
        return pairs

    generate_pairs(sample, out, num=num, batch=num, seed=seed, progress=False)
    return Path(out)
