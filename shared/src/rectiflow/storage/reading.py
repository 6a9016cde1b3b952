"""Files of text are read within bounds, whatever they hold.

::

    content = read_bounded(path)        # unfolds .gz, .bz2 and .xz, up to a bound
    text = read_text(path)              # UTF-8
    value = read_json(path)
    rows = read_rows(path, ("file", "caption"))     # CSV
"""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from rectiflow.storage.faults import FileError, storing

READ_LIMIT = 256 << 20
"""Bytes that a file of text may unfold to; ``RECTIFLOW_READ_LIMIT=2G`` raises it."""

LIMIT_VARIABLE = "RECTIFLOW_READ_LIMIT"

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read_bounded(
    path: str | Path,
    *,
    limit: int | None = None,
    hint: str = f"If it is what you mean, raise the bound: {LIMIT_VARIABLE}=4G.",
) -> bytes:
    """Read a file of text, unfolding gzip, bzip2 or xz by its first bytes.

    Parameters
    ----------
    path : str or Path
        The file.
    limit : int, optional
        Most bytes to unfold to; by default :func:`read_limit`. Memory stays within it, whatever
        the file holds.
    hint : str
        How to raise the bound, a sentence.

    Raises
    ------
    StorageError
        When it cannot be read.
    FileError
        When it is larger, or its compression is damaged.
    """
    bound = read_limit() if limit is None else limit
    with storing(path), Path(path).open("rb") as file:
        head = file.peek(6)[:6]  # not read(): a pipe cannot go back
        unfold = next((way for magic, way in _UNFOLDING.items() if head.startswith(magic)), None)
        try:
            content = (file if unfold is None else unfold(file)).read(bound + 1)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
            raise FileError(
                path,
                f"its compression is damaged or cut short ({error})",
                "a whole file",
                "Fetch it again.",
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise FileError(  # bzip2's word for damage
                path, f"its compression is damaged ({error})", "a whole file", "Fetch it again."
            ) from error
    if len(content) > bound:
        raise FileError(
            path,
            f"it holds more than {size_text(bound)}" + ("" if unfold is None else " when unfolded"),
            f"at most {size_text(bound)}",
            hint,
        )
    return content


def _gunzip(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)


_UNFOLDING: dict[bytes, Any] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def read_limit() -> int:
    """Return the bound of :func:`read_bounded`: 256 MiB, or what the environment says.

    Raises
    ------
    ValueError
        When ``RECTIFLOW_READ_LIMIT`` is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return READ_LIMIT
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"{LIMIT_VARIABLE} is no size, got {text!r}; expected such as 512M or 4G.")
    return int(found[1]) * _UNITS[found[2].upper()]


def size_text(size: float) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> size_text(256 << 20)
    '256 MiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def read_text(path: str | Path, *, limit: int | None = None) -> str:
    """Read UTF-8 with or without a byte-order mark, within the bound of :func:`read_bounded`.

    Raises
    ------
    StorageError, FileError
        As :func:`read_bounded`, and FileError when it is not UTF-8.
    """
    try:
        return read_bounded(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            path,
            f"byte {error.start} is not UTF-8",
            "text in UTF-8",
            "Convert it, such as with `iconv -t UTF-8`.",
        ) from error


def read_json(path: str | Path, *, hint: str = "Make it again.") -> dict[str, Any]:
    """Read a JSON document that is an object.

    Raises
    ------
    StorageError, FileError
        As :func:`read_text`, and FileError when it is anything else.
    """
    try:
        value = json.loads(read_text(path))
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"it is no JSON ({error})", "a JSON object", hint) from error
    if not isinstance(value, dict):
        raise FileError(path, f"it holds a {type(value).__name__}", "a JSON object", hint)
    return value


def read_rows(
    path: str | Path, columns: Iterable[str] = (), *, hint: str = "Correct the row."
) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file in UTF-8 whose first row names the columns.

    Parameters
    ----------
    path : str or Path
        The file.
    columns : iterable of str
        What must be among its columns; others are kept as well.
    hint : str
        What to do about a damaged file, a sentence.

    Returns
    -------
    list of (int, dict of str to str)
        Each row with the number of its last line.

    Raises
    ------
    StorageError, FileError
        As :func:`read_text`, and FileError when a column is missing, a row has more or fewer
        cells than there are columns, or a quote is not closed: a comma or a quote too many would
        else move values to other columns, or rows into one cell.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    expected = "a table as CSV"
    try:
        names = next(reader, [])
        missing = [name for name in columns if name not in names]
        expected = f"{len(names)} cells in each row"
        if missing or len(set(names)) < len(names):
            found = f"it lacks the columns {', '.join(missing)}" if missing else "columns repeat"
            raise FileError(path, f"{found}, got {', '.join(names)[:200]!r}", "all, once", hint)
        for cells in reader:
            if cells and len(cells) != len(names):
                raise FileError(
                    path, f"line {reader.line_num} has {len(cells)} cells", expected, hint
                )
            if cells:
                rows.append((reader.line_num, dict(zip(names, cells, strict=True))))
    except csv.Error as error:
        raise FileError(
            path, f"line {reader.line_num} is no CSV ({error})", expected, hint
        ) from error
    return rows


def digest_of(value: Any) -> str:
    """Return the SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content: what tells a changed input from an untouched one."""
    with storing(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
