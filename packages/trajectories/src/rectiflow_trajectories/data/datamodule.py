"""Prepared windows as the data of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import drawn
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_trajectories.data.prepared import PreparedTrajectories, padded


class TrajectoryDataset(Dataset[dict[str, Tensor]]):
    """Windows of a split, padded to the most nodes of any, in lengths of ``scale``.

    An index is a row, or a row and the number of its draw, which is not used.
    """

    def __init__(self, prepared: PreparedTrajectories, split: str, scale: float) -> None:
        self.prepared, self.scale = prepared, scale
        self.rows: list[int] = prepared.some_rows(split).tolist()
        self.nodes = int(prepared.table["nodes"].max())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        row = index if isinstance(index, int) else index[0]
        found = padded(self.prepared.records[self.rows[row]], self.nodes)
        return found | {"positions": found["positions"] / self.scale}


class TrajectoryData(FlowData):
    """Windows that ``prepare`` left in a folder.

    Parameters
    ----------
    folder : str or Path
        Output of ``rectiflow trajectories prepare``.
    batch_size : int
        Windows per rank and step.
    scale : float
        Length that is 1 to the network.
    seed : int
        Of the order.
    **loader
        As for :class:`~rectiflow.training.data.FlowData`.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 32,
        *,
        scale: float = 1.0,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}.")
        self.prepared, self.scale = PreparedTrajectories(folder), scale
        train = TrajectoryDataset(self.prepared, "train", scale)
        held_out = None
        if len(self.prepared.rows("valid")):
            held_out = HeldOut(TrajectoryDataset(self.prepared, "valid", scale), batch_size)
        super().__init__(train, drawn(len(train), batch_size, seed), held_out, **loader)
