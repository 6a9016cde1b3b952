"""Prepared chains, or stored pairs, as the data of a training run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rectiflow.rectify.pair_data import PairData
from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut

from rectiflow_protein.data.batching import Batches, PaddedBatches, collate
from rectiflow_protein.data.dataset import BackboneDataset
from rectiflow_protein.data.filters import Filter
from rectiflow_protein.data.prepared import PreparedBackbones
from rectiflow_protein.reflow import pair_example

IN_ORDER = partial(PaddedBatches, max_num_res_squared=500_000, shuffle=False)
"""Batches of held-out chains: in order of length, the same at each validation."""


class BackboneDataModule(FlowData):
    """Training batches of the train split, held-out batches of the valid split.

    The order of batches is a function of the step alone, so a killed run continues with the
    batches it would have seen.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``.
    batching : callable, default PaddedBatches
        Makes the :class:`Batches` of ``lengths, clusters``: a class, or
        ``partial(LengthBatches, max_num_res_squared=500_000)``.
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
        rows = self.prepared.some_rows("train", filters)
        clusters = table["cluster"][rows] if by_cluster else None
        held_out = self.prepared.dataset("valid", filters)
        padded = partial(collate, multiple=multiple)
        last = list(IN_ORDER(table["length"][held_out.rows]).batches(0)) if len(held_out) else ()
        super().__init__(
            BackboneDataset(self.prepared.records, rows),
            batching(table["length"][rows], clusters),
            HeldOut(held_out, last, padded) if last else None,
            collate_fn=padded,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


class BackbonePairs(PairData):
    """Stored pairs of noise and sample as the data of a reflow.

    Parameters
    ----------
    folder : str or Path
        Pairs of frames.
    batching, multiple
        As for :class:`BackboneDataModule`, without clusters.
    **options
        ``real``, ``real_fraction``, ``hold_out_every``, ``num_workers``, ...: as for
        :class:`~rectiflow.rectify.pair_data.PairData`.
    """

    def __init__(
        self,
        folder: str | Path,
        batching: Callable[..., Batches] = PaddedBatches,
        *,
        multiple: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(
            folder,
            example=pair_example,
            length_of="x1.trans",
            batching=batching,
            held_out=IN_ORDER,
            collate=partial(collate, multiple=multiple),
            **options,
        )
