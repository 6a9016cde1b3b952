"""A folder of samples that several workers fill, and that can be gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import UsageError
from rectiflow_cli.options import plain

if TYPE_CHECKING:
    from rectiflow_protein.pipeline import BackboneResult, BackboneSample

Key = tuple[int, int]
"""Number and length of a sample."""

_FREE = ("weights", "nfe")
"""Settings that may differ: the hash tells the weights, and nfe follows from the others."""


class SampleFolder:
    """Structures in a folder, and ``result.json`` (``result-i-of-n.json`` of a shard) beside them.

    A structure appears whole, after its trajectory; one that is listed and exists is done.

    Parameters
    ----------
    out : Path
        The folder; made when something is written.
    settings : dict
        What decides a sample beside its number and length.
    shard : (int, int)
        This worker's part.
    suffix : str
        Of the structures.

    Raises
    ------
    UsageError
        When the folder holds samples of other settings.
    """

    def __init__(
        self, out: Path, settings: dict[str, Any], shard: tuple[int, int], suffix: str
    ) -> None:
        self.out, self.settings, self.suffix = out, settings, suffix
        part, parts = shard
        name = "result" if parts == 1 else f"result-{part}-of-{parts}"
        self._result = out / f"{name}.json"
        self._staging = out / f".{name}.partial"
        self._own: dict[Key, dict[str, Any]] = {}
        self._others: dict[Key, dict[str, Any]] = {}
        self._seconds = 0.0
        self._device = ""
        for path in sorted(out.glob("result*.json")):
            self._read(path)

    def _read(self, path: Path) -> None:
        told = json.loads(path.read_text(encoding="utf-8"))
        settings = told.get("settings", {})
        differing = [
            f"{key} {settings.get(key)!r}, now {value!r}"
            for key, value in self.settings.items()
            if key not in _FREE and settings.get(key) != value
        ]
        if differing:
            raise UsageError(
                f"{self.out} holds samples made with other settings ({'; '.join(differing)}); "
                "expected the same. Choose another folder with -o."
            )
        rows = {(row["index"], row["length"]): row for row in told["samples"]}
        if path == self._result:
            self._own, self._seconds, self._device = rows, told["seconds"], told["device"]
        else:
            self._others |= rows

    def _row(self, key: Key) -> dict[str, Any] | None:
        return self._own.get(key) or self._others.get(key)

    def holds(self, index: int, length: int, *, movies: bool) -> bool:
        """Return whether a sample is listed and its files exist."""
        row = self._row((index, length))
        if row is None or not row["file"].endswith(self.suffix):
            return False
        paths = [self.out / row["file"]]
        if movies:
            paths += [paths[0].with_name(name) for name in _movie_names(paths[0])]
        return all(path.is_file() for path in paths)

    def rows(self, keys: Sequence[Key]) -> list[dict[str, Any]]:
        """Return what is listed of these samples."""
        return [row for key in keys if (row := self._row(key)) is not None]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep unfinished files in a hidden folder, which goes away whatever happens."""
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)

    def add(self, result: BackboneResult) -> None:
        """Write the samples of a call, and list them."""
        paths = result.save(self._staging, suffix=self.suffix)
        for sample, path in zip(result.samples, paths, strict=True):
            for movie in _movie_names(path):
                if (self._staging / movie).exists():
                    os.replace(self._staging / movie, self.out / movie)
            os.replace(path, self.out / path.name)
            key = (sample.index, len(sample.atoms))
            self._own[key] = {
                "file": path.name,
                "index": key[0],
                "length": key[1],
                **({"motif": [row + 1 for row in sample.motif]} if sample.motif else {}),
                **_measured(sample),
            }
        self._seconds += result.seconds
        self._device = result.settings["device"]
        self._write()

    def _write(self) -> None:
        listed = sorted(self._own.values(), key=lambda row: (row["index"], row["length"]))
        text = json.dumps(plain(self.document(listed)), indent=1)
        partial = self._result.with_name(f".{self._result.name}.partial-file")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self._result)

    def document(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the content of ``result.json`` for some of the samples."""
        return {
            "settings": self.settings,
            "seconds": round(self._seconds, 3),
            "device": self._device,
            "folder": str(self.out),
            "samples": list(rows),
        }


def _movie_names(structure: Path) -> list[str]:
    return [f"{structure.stem}_{kind}{structure.suffix}" for kind in ("trajectory", "predictions")]


def _measured(sample: BackboneSample) -> dict[str, Any]:
    """Metrics of a sample, rounded for reading; None where undefined."""
    import torch
    from rectiflow_protein.metrics import backbone_metrics
    from rectiflow_protein.residues import ATOM5, BACKBONE_ATOMS

    rows = [ATOM5.index(atom) for atom in BACKBONE_ATOMS]
    found = backbone_metrics(torch.from_numpy(sample.atoms[:, rows]))
    return plain({name: round(float(value), 4) for name, value in found.items()})
