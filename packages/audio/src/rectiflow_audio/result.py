"""What a separation returns, and how it is written."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RESIDUAL = "residual"
"""File of everything but the estimates."""

_LONGEST = 120  # bytes of a name made of a query
_NUMBER = 6  # of them, for a number


@dataclass(frozen=True)
class Estimate:
    """One separated sound.

    Attributes
    ----------
    query : str
    samples : ndarray, shape (channels, n), float32
        In the level, rate and length of the mixture.
    energy : float
        Its energy over the mixture's: near 0 when nothing was found.
    """

    query: str
    samples: np.ndarray
    energy: float

    @property
    def name(self) -> str:
        """Return the query as a file name, letters of any script."""
        return _name_of(self.query)


def file_names(queries: Sequence[str]) -> list[str]:
    """Return a file name for each query, no two alike and none that of the residual.

    Examples
    --------
    >>> file_names(["Rain!", "rain", "residual", "шум дождя"])
    ['rain', 'rain_2', 'residual_2', 'шум_дождя']
    """
    names: list[str] = []
    for query in queries:
        name, number = _name_of(query), 1
        while (numbered := name if number == 1 else f"{name}_{number}") in (RESIDUAL, *names):
            number += 1
        names.append(numbered)
    return names


def _name_of(query: str) -> str:
    words = re.sub(r"\W+", "_", unicodedata.normalize("NFC", query).lower()).strip("_")
    name = words.encode()[: _LONGEST - _NUMBER].decode(errors="ignore").strip("_") or "estimate"
    return os.fsdecode(name.encode())  # whatever the locale takes names of files to be


@dataclass(frozen=True)
class SeparationResult:
    """Separated sounds and how they were made.

    Attributes
    ----------
    estimates : list of Estimate
        In the order of the queries.
    residual : ndarray, shape (channels, n), optional
        Everything but the estimates, if it was asked for.
    sample_rate : int
        Hz.
    seconds : float
        Time taken.
    settings : dict
        Queries, seed, steps, solver, guidance and hash of the weights.
    """

    estimates: list[Estimate]
    residual: np.ndarray | None
    sample_rate: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def save(
        self, folder: Path | str, *, suffix: str = ".wav", depth: str | None = None
    ) -> list[Path]:
        """Write a sound for each query, ``residual`` if there is one, and ``result.json``.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        suffix : str
            Format of the sounds.
        depth : str, optional
            As for :func:`~rectiflow_audio.io.write_audio`.

        Returns
        -------
        list of Path
            The sounds.
        """
        from rectiflow_audio.io import write_audio

        target = Path(folder)
        names = file_names([e.query for e in self.estimates])
        sounds = dict(zip(names, (e.samples for e in self.estimates), strict=True))
        if self.residual is not None:
            sounds[RESIDUAL] = self.residual
        written = [target / f"{name}{suffix}" for name in sounds]
        for path, samples in zip(written, sounds.values(), strict=True):
            write_audio(path, samples, self.sample_rate, subtype=depth)
        write_summary(target / "result.json", self.summary(written))
        return written

    def summary(self, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Return what ``result.json`` tells."""
        energies = {e.query: round(e.energy, 6) for e in self.estimates}
        return {
            **self.settings,
            "seconds": round(self.seconds, 3),
            "sample_rate": self.sample_rate,
            "energy": energies,
            "files": [path.name for path in files],
        }


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)
