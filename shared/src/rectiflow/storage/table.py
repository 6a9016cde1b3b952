"""Tables beside records: a CSV file whose columns have a type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rectiflow.storage.faults import FileError
from rectiflow.storage.files import write_table
from rectiflow.storage.reading import read_rows

Columns: TypeAlias = Mapping[str, type]
"""Type of each column: str, int or float; a float may be missing, which is NaN."""

Table: TypeAlias = Mapping[str, np.ndarray]
"""Columns by name, all of one length."""


def table_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> dict[str, np.ndarray]:
    """Make columns of rows.

    Examples
    --------
    >>> table_of([{"name": "a", "size": None}], {"name": str, "size": float})["size"].tolist()
    [nan]
    """
    return {
        key: np.array([_cell(row[key], kind) for row in rows], dtype=None if rows else kind)
        for key, kind in columns.items()
    }


def read_table(path: str | Path, columns: Columns) -> dict[str, np.ndarray]:
    """Read a CSV file.

    Raises
    ------
    StorageError, FileError
        As :func:`~rectiflow.storage.reading.read_rows`, and FileError when a value is not of its
        column's type.
    """
    hint = "Prepare the folder again."
    rows = []
    for line, row in read_rows(path, columns, hint=hint):
        try:
            rows.append({key: _cell(row[key], kind) for key, kind in columns.items()})
        except ValueError as error:
            raise FileError(path, f"line {line} is damaged ({error})", "numbers", hint) from error
    return table_of(rows, columns)


def _cell(value: Any, kind: type) -> Any:
    """Value of a column, from text or from Python."""
    return float("nan") if kind is float and value in (None, "") else kind(value)


def write_rows(path: str | Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; None becomes an empty cell.

    Raises
    ------
    ValueError
        If a row has a column that is not among ``columns``.
    """
    write_table(path, columns, ({key: _text(value) for key, value in r.items()} for r in rows))


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
