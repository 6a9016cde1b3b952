"""Tables beside records: a CSV file whose columns have a type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rectiflow.storage.columns import Column, Texts, map_columns, write_columns
from rectiflow.storage.faults import FileError
from rectiflow.storage.files import write_table
from rectiflow.storage.reading import read_rows

Columns: TypeAlias = Mapping[str, type]
"""Type of each column: str, int or float; a float may be missing, which is NaN."""

Table: TypeAlias = Mapping[str, Column]
"""Columns by name, all of one length."""


def table_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> dict[str, Column]:
    """Make columns of rows.

    Examples
    --------
    >>> table_of([{"name": "a", "size": None}], {"name": str, "size": float})["size"].tolist()
    [nan]
    """
    return {key: _column((row[key] for row in rows), kind) for key, kind in columns.items()}


def read_table(path: str | Path, columns: Columns) -> dict[str, Column]:
    """Read a CSV file, or map the columns that lie beside it.

    Raises
    ------
    StorageError, FileError
        As :func:`~rectiflow.storage.reading.read_rows`, and FileError when a value is not of its
        column's type.
    """
    mapped = map_columns(Path(path), columns)
    if mapped is not None:
        return mapped
    hint = "Prepare the folder again."
    rows = read_rows(path, columns, hint=hint)
    try:
        return table_of([row for _, row in rows], columns)
    except ValueError:
        for line, row in rows:
            for key, kind in columns.items():
                try:
                    _cell(row[key], kind)
                except ValueError as error:
                    told = f"line {line} is damaged ({error})"
                    raise FileError(path, told, "numbers", hint) from error
        raise


def _column(values: Iterable[Any], kind: type) -> Column:
    if kind is str:
        return Texts.of(map(str, values))
    return np.fromiter((_cell(value, kind) for value in values), np.dtype(kind))


def _cell(value: Any, kind: type) -> Any:
    """Value of a column, from text or from Python."""
    return float("nan") if kind is float and value in (None, "") else kind(value)


def write_rows(path: str | Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file, whole or not at all; None becomes an empty cell.

    With a type for each column, the columns are written beside it, for :func:`read_table` to map.

    Raises
    ------
    ValueError
        If a row has a column that is not among ``columns``.
    """
    told = [{key: _text(value) for key, value in r.items()} for r in rows]
    write_table(path, columns, told)
    if isinstance(columns, Mapping):
        write_columns(Path(path), table_of(told, columns))


def _text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
