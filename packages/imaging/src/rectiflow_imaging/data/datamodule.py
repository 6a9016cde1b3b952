"""Batches of prepared images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import ShuffledBatches
from torch.utils.data import Subset

from rectiflow_imaging.data.prepare import PreparedImages


class ImageData(FlowData):
    """Images of the train split; those of the valid split are held out.

    Parameters
    ----------
    folder : str or Path
        Left by :func:`~rectiflow_imaging.data.prepare.prepare`.
    batch_size, seed, num_workers
        Of the training batches.
    """

    def __init__(
        self, folder: str | Path, batch_size: int = 16, *, seed: int = 0, num_workers: int = 0
    ) -> None:
        prepared = PreparedImages(folder)
        rows, held = prepared.some_rows("train"), prepared.rows("valid")
        records: Any = prepared.records
        train: Any = Subset(records, rows.tolist())
        batches = ShuffledBatches(len(rows), min(batch_size, len(rows)), seed=seed)
        valid = HeldOut(Subset(records, held.tolist()), batch_size) if len(held) else None
        super().__init__(train, batches, valid, num_workers=num_workers)
