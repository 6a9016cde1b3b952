"""Tables that users write: CSV files whose every row must be what it seems."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class TableError(ValueError):
    """A table cannot be read without guessing."""


def read_table(path: str | Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read a CSV file with a header.

    Parameters
    ----------
    path : str or Path
        UTF-8 text, with or without a byte order mark.

    Returns
    -------
    header : list of str
        Names of the columns, outer spaces removed.
    rows : list of (int, list of str)
        The line in which each row ends and its cells as they were written, as many as the header
        has names. Empty lines are left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TableError
        If it is no UTF-8 text, a quote is not closed, or a row has more or fewer cells than the
        header: a comma in a cell that is not quoted would move the others.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"there is no {path}; expected a CSV file. Check the path.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            # Strict: a quote that is not closed would otherwise swallow the rows after it.
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            return header, list(_rows(reader, header, path))
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise TableError(
            f"{path} is not a CSV file (line {reader.line_num}: {error}); expected every quote to "
            "be closed. Write quotes inside quoted cells twice."
        ) from error


def _rows(reader: Iterator[list[str]], header: Sequence[str], path: Path) -> Iterator[Any]:
    for cells in reader:
        line = reader.line_num  # type: ignore[attr-defined]
        if not any(cells):
            continue
        if len(cells) != len(header):
            wrong = "is cut off" if len(cells) < len(header) else "has too many cells"
            raise TableError(
                f"{path}, line {line} {wrong}, got {len(cells)} cells; expected {len(header)}. Put "
                "cells that hold commas in quotes."
            )
        yield line, cells


def find_file(folder: Path, name: str) -> Path:
    """Return the file of a name, in whichever form its letters are stored.

    Systems differ in whether "é" is one character or two; a list from one names files of another.

    Parameters
    ----------
    folder : Path
        What the name is relative to.
    name : str
        As a list gives it; spaces in it are kept.

    Returns
    -------
    Path
        The file if there is one, else where it should be.
    """
    told = folder / name
    if name.isascii() or is_file(told):
        return told
    place = folder
    for part in Path(name).parts:
        wanted = unicodedata.normalize("NFC", part)
        exact = place / part
        alike = place.iterdir() if place.is_dir() and not os.path.exists(exact) else ()
        place = next((p for p in alike if unicodedata.normalize("NFC", p.name) == wanted), exact)
    return place


def is_file(path: Path) -> bool:
    """Tell whether there is a file; a name that no file can have is one of none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
