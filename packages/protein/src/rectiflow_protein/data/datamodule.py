"""Prepared chains as the data of a training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rectiflow.training.data import FlowData
from torch import Tensor

from rectiflow_protein.data.batching import Batches, PaddedBatches, collate
from rectiflow_protein.data.dataset import BackboneDataset
from rectiflow_protein.data.filters import Filter
from rectiflow_protein.data.shards import PreparedBackbones


class BackboneDataModule(FlowData):
    """Training batches of the train split, held-out batches of the valid split.

    The order of batches is a function of the step alone, so a killed run continues with the
    batches it would have seen.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``.
    batching : callable, default PaddedBatches
        Makes the :class:`Batches` of one rank from ``lengths, clusters, rank=, world_size=``: a
        class, or ``partial(LengthBatches, max_num_res_squared=500_000)``.
    by_cluster : bool, default True
        Draw one chain per cluster and epoch; otherwise every chain.
    filters : sequence of Filter
        Further conditions on the chains of both splits.
    multiple : int, default 1
        Padded lengths are rounded up to a multiple of this.
    num_workers : int, default 0
        Processes that load batches.
    pin_memory : bool, default False
        Copy batches through pinned memory, for a GPU.

    Raises
    ------
    ValueError
        If no chain is left to train on.
    """

    def __init__(
        self,
        folder: str | Path,
        batching: Callable[..., Batches] = PaddedBatches,
        *,
        by_cluster: bool = True,
        filters: Sequence[Filter] = (),
        multiple: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.prepared = PreparedBackbones(folder)
        table = self.prepared.table
        rows = self.prepared.rows("train", filters)
        if not len(rows):
            raise ValueError(
                f"{folder} has no chain to train on, got {len(self.prepared)} chains in all; "
                "expected at least one in the train split. Loosen the filters or prepare more."
            )
        lengths = table["length"][rows].tolist()
        clusters = table["cluster"][rows].tolist() if by_cluster else None
        held_out = self.prepared.rows("valid", filters)
        padded = partial(collate, multiple=multiple)
        super().__init__(
            BackboneDataset(self.prepared.records, rows.tolist()),
            lambda rank, world_size: batching(lengths, clusters, rank=rank, world_size=world_size),
            HeldOut(self.prepared, held_out.tolist(), multiple) if len(held_out) else None,
            collate_fn=padded,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


@dataclass(frozen=True)
class HeldOut:
    """Batches of given rows in order of length, the same at each iteration.

    Parameters
    ----------
    prepared : PreparedBackbones
        Where the rows are.
    rows : sequence of int
        At least one.
    multiple : int
        As in :func:`collate`.
    max_num_res_squared : int
        Budget of a batch.
    """

    prepared: PreparedBackbones
    rows: Sequence[int]
    multiple: int = 1
    max_num_res_squared: int = 500_000

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        lengths = self.prepared.table["length"][list(self.rows)].tolist()
        dataset = BackboneDataset(self.prepared.records, self.rows)
        source = PaddedBatches(lengths, max_num_res_squared=self.max_num_res_squared, shuffle=False)
        for batch in source.batches(0):
            yield collate([dataset[i] for i in batch], multiple=self.multiple)
