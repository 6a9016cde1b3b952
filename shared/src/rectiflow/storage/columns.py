"""Columns of a table in one file that is mapped, not read: a million rows take no time to open.

A file of columns lies beside its CSV file, which stays the truth: one that is older than the CSV,
or tells another size of it, is passed over. Numbers are stored as they are; texts as the sorted
distinct ones and a number for each row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from rectiflow.storage.files import write_tensors

SUFFIX = ".columns"
"""Put in the place of ``.csv``."""


class Words(Sequence[str]):
    """Texts in one block of bytes.

    Parameters
    ----------
    block : ndarray, uint8
        UTF-8.
    ends : ndarray, int64, shape (words + 1,)
        Where each begins, and where the last ends.
    """

    def __init__(self, block: np.ndarray, ends: np.ndarray) -> None:
        self.block, self.ends = block, ends

    @classmethod
    def of(cls, words: Iterable[str]) -> Words:
        """Store some texts."""
        told = [word.encode("utf-8", "surrogatepass") for word in words]
        block = np.frombuffer(b"".join(told), dtype=np.uint8)
        return cls(block, np.cumsum([0, *map(len, told)], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part = self.block[self.ends[index] : self.ends[index + 1]]
        return part.tobytes().decode("utf-8", "surrogatepass")


class Texts(Sequence[Any]):
    """A column of texts, used as an array of them is.

    Indexed by a number it gives a text, by an array or a slice another column; compared with a
    text, a mask. ``numpy.asarray`` makes an array of it.

    Parameters
    ----------
    words : Words
        Distinct and sorted.
    codes : ndarray, int32, shape (rows,)
        Which of them each row has.

    Examples
    --------
    >>> column = Texts.of(["b", "a", "b"])
    >>> (column == "b").tolist(), column[[0, 1]].tolist(), column[1]
    ([True, False, True], ['b', 'a'], 'a')
    """

    def __init__(self, words: Words, codes: np.ndarray) -> None:
        self.words, self.codes = words, codes

    @classmethod
    def of(cls, values: Iterable[str]) -> Texts:
        """Make a column, holding each distinct text once."""
        seen: dict[str, int] = {}
        codes = np.fromiter((seen.setdefault(v, len(seen)) for v in values), np.int32)
        # In the order of code points, which is that of the bytes.
        ordered = sorted(seen)
        places = np.empty(len(ordered), np.int32)
        places[[seen[word] for word in ordered]] = np.arange(len(ordered), dtype=np.int32)
        return cls(Words.of(ordered), places[codes] if len(codes) else codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: Any) -> Any:
        found = self.codes[index]
        return Texts(self.words, found) if isinstance(found, np.ndarray) else self.words[int(found)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tolist())

    def tolist(self) -> list[str]:
        """Return the texts; rows of the same text share it."""
        used, places = np.unique(self.codes, return_inverse=True)
        words = [self.words[int(code)] for code in used]
        return [words[place] for place in places.tolist()]

    def __eq__(self, other: object) -> Any:
        if isinstance(other, str):
            code = bisect_left(self.words, other)
            if code == len(self.words) or self.words[code] != other:
                return np.zeros(len(self), dtype=bool)
            return self.codes == code
        return np.asarray(self) == np.asarray(other)

    def __ne__(self, other: object) -> Any:
        return ~(self == other)

    __hash__ = None  # type: ignore[assignment]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.tolist(), dtype=dtype if dtype is not None or len(self) else str)


Column: TypeAlias = Any
"""An array of numbers or :class:`Texts`, one for each row: which, the name of a column tells."""


def write_columns(csv: Path, table: Mapping[str, Column]) -> None:
    """Write the columns of a CSV file beside it.

    Parameters
    ----------
    csv : Path
        Written before.
    table : mapping
        What :func:`~rectiflow.storage.table.read_table` makes of it.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, column in table.items():
        parts = {"": column}
        if isinstance(column, Texts):
            words = column.words
            parts = {"": column.codes, "@words": words.block, "@ends": words.ends}
        tensors |= {name + part: torch.from_numpy(np.array(value)) for part, value in parts.items()}
    size = str(csv.stat().st_size)
    write_tensors(csv.with_suffix(SUFFIX), tensors, {"csv_bytes": size})


def map_columns(csv: Path, names: Mapping[str, type]) -> dict[str, Column] | None:
    """Map the columns beside a CSV file; None where there are none, or none that fit.

    Parameters
    ----------
    csv : Path
        The CSV file.
    names : mapping of str to type
        Which are wanted; a text column for ``str``.
    """
    path = csv.with_suffix(SUFFIX)
    try:
        told, truth = path.stat(), csv.stat()
        if told.st_mtime_ns < truth.st_mtime_ns:
            return None
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("csv_bytes") != str(truth.st_size):
                return None
            there = set(file.keys())
            if any(
                name not in there or (kind is str) != (f"{name}@words" in there)
                for name, kind in names.items()
            ):
                return None
            mapped = {key: file.get_tensor(key).numpy() for key in there}
    except (OSError, SafetensorError):
        return None
    if any(kind is not str and mapped[n].dtype != kind for n, kind in names.items()):
        return None
    return {
        name: Texts(Words(mapped[f"{name}@words"], mapped[f"{name}@ends"]), mapped[name])
        if kind is str
        else mapped[name]
        for name, kind in names.items()
    }
