"""One form for what a pipeline made: files, ``result.json``, and a folder that can be gone on with.

``result.json`` holds ``settings`` (everything that shaped the result, the weights' hash included),
``samples`` (a row each, with the names of its files), ``seconds``, ``machine``, and where a command
made it the ``command`` that makes it again. Python and the command line write the same.
"""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectiflow.storage.files import staging, write_json
from rectiflow.storage.folders import claim
from rectiflow.storage.journal import Journal
from rectiflow.storage.reading import read_json

RESULT = "result.json"

FREE = ("weights", "device", "nfe", "rows")
"""Settings that may differ between two calls for the same result: the hash tells the weights, and
the number of network calls follows from the others."""


@dataclass(frozen=True)
class Result(ABC):
    """What a call of a pipeline returns.

    Attributes
    ----------
    settings : dict
        Everything that shaped the result.
    seconds : float
        Time taken.
    """

    settings: dict[str, Any] = field(default_factory=dict, kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)

    @abstractmethod
    def write(self, folder: Path, suffix: str) -> list[dict[str, Any]]:
        """Write the files and return a row for each sample, in order.

        A row has a ``name``, which tells the sample from all others, and ``files``, their names
        relative to the folder. ``suffix`` chooses a format; empty, it is the domain's own.
        """

    def save(self, folder: Path | str, *, suffix: str = "", **options: Any) -> list[Path]:
        """Write the files and ``result.json``.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        suffix : str
            Format of the files, such as ``".cif"``; the domain's own if empty.
        **options
            What else the domain's :meth:`write` takes.

        Returns
        -------
        list of Path
            The files.
        """
        target = Path(folder)
        with claim(target, "results", [RESULT]) as own, staging(target) as staged:
            rows = self.write(staged, suffix, **options)
            files = [name for row in rows for name in row["files"]]
            own.add(files)
            for name in files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged / name, target / name)
            write_json(target / RESULT, document(self.settings, rows, self.seconds))
        return [target / name for name in files]


def document(
    settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], seconds: float, **more: Any
) -> dict[str, Any]:
    """Return what ``result.json`` holds, as plain data."""
    from rectiflow.machine import describe_machine

    told = {"settings": settings, "samples": rows, "seconds": round(seconds, 3)}
    return plain(told | more | {"machine": describe_machine()})


def plain(value: Any) -> Any:
    """Turn a value into what JSON has; numbers that are not finite become None.

    Examples
    --------
    >>> plain({"x": float("nan"), 1: (Path("a"), 2)})
    {'x': None, '1': ['a', 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


class ResultFolder:
    """A folder of results that several workers fill, and that can be gone on with.

    Each worker keeps ``result.json``, or ``result-i-of-n.json`` of its shard, and a journal beside
    it while it writes. A file appears whole; a sample that is listed, its files there, is done.

    Parameters
    ----------
    folder : Path or str
        Made when something is written.
    settings : mapping
        What shapes the samples, beside what their rows say.
    shard : (int, int), default (0, 1)
        This worker's part.
    stem : str, default "result"
        Of the files that list the samples.
    command : sequence of str, optional
        What makes the results again.
    replace : bool, default False
        Forget results of other settings instead of refusing them.

    Raises
    ------
    ValueError
        When the folder holds results of other settings.
    """

    def __init__(
        self,
        folder: Path | str,
        settings: Mapping[str, Any],
        *,
        shard: tuple[int, int] = (0, 1),
        stem: str = "result",
        command: Sequence[str] = (),
        replace: bool = False,
    ) -> None:
        self.folder, self.settings = Path(folder), plain(settings)
        self.path = self.folder / shard_name(stem, shard)
        self.command = list(command)
        self.wanted: list[str] = []
        self.failed: dict[str, str] = {}
        self._own: dict[str, dict[str, Any]] = {}
        self._others: dict[str, dict[str, Any]] = {}
        self._seconds = 0.0
        self._journal = Journal(self.path)
        self._journals: bool | None = None  # while it writes, whether there is a list to add to
        for path in listings(self.folder, stem):
            self._read(path, replace)

    def _read(self, path: Path, replace: bool) -> None:
        told = read_listing(path)
        before = told.get("settings", {})
        differing = [
            f"{key} {before.get(key)!r}, now {value!r}"
            for key, value in self.settings.items()
            if key not in FREE and before.get(key) != value
        ]
        if differing and replace:
            return
        if differing:
            raise ValueError(
                f"{self.folder} holds results made with other settings ({'; '.join(differing)}); "
                "expected the same. Choose another folder with -o."
            )
        rows = {row["name"]: row for row in told.get("samples", ())}
        if path == self.path:
            self._own, self._seconds = rows, told.get("seconds", 0.0)
        else:
            self._others |= rows

    def row(self, name: str) -> dict[str, Any] | None:
        """Return what is listed of a sample."""
        return self._own.get(name) or self._others.get(name)

    def holds(self, name: str, files: Sequence[str] = (), **expected: Any) -> bool:
        """Return whether a sample is listed as expected, has these files, and all are there."""
        row = self.row(name)
        if row is None or any(row.get(key) != value for key, value in plain(expected).items()):
            return False
        return set(files) <= set(row["files"]) and all(
            (self.folder / file).is_file() for file in row["files"]
        )

    @contextmanager
    def writing(self, wanted: Sequence[str]) -> Iterator[Path]:
        """Give a hidden folder for files on their way, and keep the list of results up to date.

        Parameters
        ----------
        wanted : sequence of str
            Names of all samples of this worker, those that are there included.
        """
        self.wanted = list(wanted)
        with staging(self.folder) as own:
            self._journals = False
            try:
                yield own
            finally:
                if self._journals:  # else nothing was made
                    self._list()
                self._journals = None

    def add(self, rows: Sequence[Mapping[str, Any]], staged: Path, seconds: float) -> None:
        """Move the files of some samples into place, and list them."""
        told = [plain(row) for row in rows]
        for row in told:
            for file in row["files"]:
                (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(staged / file, self.folder / file)
            self._own[row["name"]] = row
            self.failed.pop(row["name"], None)
        self._seconds += seconds
        self._add({"samples": told, "seconds": round(self._seconds, 3)})

    def refuse(self, name: str, reason: str) -> None:
        """List a sample that cannot be made, and why."""
        self.failed[name] = reason
        self._add({"failed": {name: reason}})

    def _add(self, entry: dict[str, Any]) -> None:
        if self._journals:
            self._journal.append(entry)
            return
        self._list()
        if self._journals is not None:
            self._journals = True

    def _list(self) -> None:
        self._journal.fold(self.document(sorted(self._own)))

    def document(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the content of ``result.json`` for the samples of these names that are there."""
        rows = [row for name in names if (row := self.row(name)) is not None]
        more = {"wanted": self.wanted, "failed": self.failed}
        if self.command:
            more |= {"command": self.command, "directory": str(Path.cwd())}
        return document(self.settings, rows, self._seconds, **more)


def read_listing(path: Path) -> dict[str, Any]:
    """Return a file that lists results, with what the journal of a worker adds to it."""
    told = read_json(path)
    entries = Journal(path).entries()
    if not entries:
        return told
    rows = {row["name"]: row for row in told.get("samples", ())}
    failed = dict(told.get("failed", {}))
    for entry in entries:
        rows |= {row["name"]: row for row in entry.get("samples", ())}
        failed |= entry.get("failed", {})
        told["seconds"] = entry.get("seconds", told.get("seconds", 0.0))
    failed = {name: reason for name, reason in failed.items() if name not in rows}
    return {**told, "samples": list(rows.values()), "failed": failed}


def shard_name(stem: str, shard: tuple[int, int]) -> str:
    """Return the name of the file that lists a worker's results."""
    part, parts = shard
    return f"{stem}.json" if parts == 1 else f"{stem}-{part}-of-{parts}.json"


def listings(folder: Path | str, stem: str = "result") -> list[Path]:
    """Return the files of a folder that list results."""
    pattern = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?\.json")
    return sorted(path for path in Path(folder).glob("*.json") if pattern.fullmatch(path.name))
