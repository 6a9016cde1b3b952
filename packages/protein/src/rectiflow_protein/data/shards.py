"""A folder of prepared chains: shards of records, and the table beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.preparation import SPLITS
from rectiflow.storage.shards import ShardReader

from rectiflow_protein.data.dataset import BackboneDataset
from rectiflow_protein.data.filters import Filter
from rectiflow_protein.data.table import Table, read_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int

METADATA = "metadata.csv"
REJECTED = "rejected.csv"


class PreparedBackbones:
    """What :func:`prepare` left in a folder.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``.
    verify : bool, default False
        Check the hash of every shard first.

    Attributes
    ----------
    records : ShardReader
        ``coords (n, 4, 3)``, ``aatype``, ``residue_index`` and ``chain_index (n,)`` of each chain.
    table : dict of ndarray
        Columns of ``metadata.csv``, one row per record.
    """

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.records = ShardReader(self.folder, verify=verify)
        path = self.folder / METADATA
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {METADATA}; expected a folder that prepare finished. Run "
                "prepare again, it continues where it stopped."
            )
        self.table: Table = read_table(path)
        if len(self.table["name"]) != len(self.records):
            raise ValueError(
                f"{path} has {len(self.table['name'])} rows for {len(self.records)} records; "
                "expected as many. Prepare the folder again."
            )

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, split: str, filters: Sequence[Filter] = ()) -> Int[np.ndarray, " rows"]:
        """Rows of a split that pass all filters, applied one after the other.

        Parameters
        ----------
        split : str
            ``train``, ``valid`` or ``test``.
        filters : sequence of Filter
            Further conditions, such as ``LengthFilter(60, 128)``.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}.")
        rows = np.flatnonzero(self.table["split"] == split)
        for condition in filters:
            kept = condition.keep({key: column[rows] for key, column in self.table.items()})
            rows = rows[kept]
        return rows

    def dataset(self, split: str, filters: Sequence[Filter] = ()) -> BackboneDataset:
        """Training examples of a split."""
        return BackboneDataset(self.records, self.rows(split, filters).tolist())
