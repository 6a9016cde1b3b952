"""A folder of prepared data: shards of records, and the table beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from rectiflow.storage.preparation import METADATA
from rectiflow.storage.shards import ShardReader
from rectiflow.storage.splits import SPLITS
from rectiflow.storage.table import Columns, Table, read_table

if TYPE_CHECKING:
    from jaxtyping import Bool, Int


class Filter(Protocol):
    """A condition on the rows of a table."""

    def keep(self, table: Table) -> Bool[np.ndarray, " rows"]:
        """Return which rows pass."""
        ...


class Prepared:
    """What a domain's ``prepare`` left in a folder.

    A subclass names the ``columns`` of its table, ``split`` among them, and what one record is.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``.
    verify : bool, default False
        Check the hash of every shard first.

    Attributes
    ----------
    records : ShardReader
        The tensors.
    table : dict of ndarray
        Columns of ``metadata.csv``, one row per record.

    Raises
    ------
    FileNotFoundError
        If the preparation was not finished.
    ValueError
        If table and records do not agree.
    """

    columns: ClassVar[Columns] = {"name": str, "split": str}
    unit: ClassVar[str] = "record"

    def __init__(self, folder: str | Path, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.records = ShardReader(self.folder, verify=verify)
        path = self.folder / METADATA
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder} has no {METADATA}; expected a folder that prepare finished. Run "
                "prepare again, it continues where it stopped."
            )
        self.table: Table = read_table(path, self.columns)
        if len(self.table["split"]) != len(self.records):
            raise ValueError(
                f"{path} has {len(self.table['split'])} rows for {len(self.records)} records; "
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
            Further conditions.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}.")
        rows = np.flatnonzero(self.table["split"] == split)
        for condition in filters:
            rows = rows[condition.keep({key: col[rows] for key, col in self.table.items()})]
        return rows

    def some_rows(self, split: str, filters: Sequence[Filter] = ()) -> Int[np.ndarray, " rows"]:
        """Rows of a split as :meth:`rows` finds them, at least one.

        Raises
        ------
        ValueError
            If none is left.
        """
        rows = self.rows(split, filters)
        if not len(rows):
            raise ValueError(
                f"{self.folder} has no {self.unit} in the split {split!r}"
                f"{' that passes the filters' if filters else ''}, got {len(self)} {self.unit}s in "
                "all; expected at least one. Loosen the filters or prepare more."
            )
        return rows
