"""The table beside prepared chains: one row per chain, in the order of the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_rows

COLUMNS: dict[str, type] = {
    "name": str,
    "source": str,  # path below the prepared folder
    "chain": str,
    "length": int,
    "cluster": str,
    "split": str,  # train, valid or test
    "helix": float,  # fractions by DSSP
    "strand": float,
    "coil": float,
    "radius_gyration": float,  # Å over CA
    "resolution": float,  # Å; empty where unknown
    "num_chains": int,  # protein chains of the file
    "breaks": int,  # missing peptide bonds inside the chain
    "dropped": int,  # residues of the chain without a whole backbone
}
"""Columns of ``metadata.csv`` and the type of each."""

Table = Mapping[str, np.ndarray]
"""Columns by name, all of one length."""


def table_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Make columns of rows; a missing number is NaN.

    Examples
    --------
    >>> table_of([{"name": "a", "resolution": None}])["resolution"].tolist()
    [nan]
    """
    keys = [key for key in COLUMNS if rows and key in rows[0]]
    return {key: np.array([_cell(row[key], key) for row in rows]) for key in keys}


def read_table(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``metadata.csv``.

    Raises
    ------
    ValueError
        If a column is missing or a value is not of its type.
    """
    hint = "Prepare the folder again."
    rows = []
    for line, row in read_rows(path, COLUMNS, hint=hint):
        try:
            rows.append({key: _cell(row[key], key) for key in COLUMNS})
        except ValueError as error:
            raise FileError(path, f"line {line} is damaged ({error})", "numbers", hint) from error
    return table_of(rows) if rows else {key: np.array([], dtype=k) for key, k in COLUMNS.items()}


def _cell(value: Any, key: str) -> Any:
    """Value of a column, from text or from Python."""
    kind = COLUMNS[key]
    if kind is float and value in (None, ""):
        return float("nan")
    return kind(value)
