"""What a separation returns, and how it is written."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.results import Result
from torch import Tensor

WAV = ".wav"

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
        return file_stem(self.query)


@dataclass(frozen=True)
class SeparationResult(Result):
    """Separated sounds and how they were made.

    Attributes
    ----------
    estimates : list of Estimate
        In the order of the queries.
    residual : ndarray, shape (channels, n), optional
        Everything but the estimates, if it was asked for.
    sample_rate : int
        Hz.
    """

    estimates: list[Estimate]
    residual: np.ndarray | None
    sample_rate: int

    def write(
        self, folder: Path, suffix: str = "", depth: str | None = None
    ) -> list[dict[str, Any]]:
        """Write a sound for each query, and ``residual`` if there is one.

        ``depth`` is that of :func:`~rectiflow_audio.io.write_audio`.
        """
        from rectiflow_audio.io import write_audio

        queries = [e.query for e in self.estimates]
        files = file_names(queries, suffix, residual=self.residual is not None)
        sounds = [e.samples for e in self.estimates]
        sounds += [] if self.residual is None else [self.residual]
        for name, samples in zip(files, sounds, strict=True):
            write_audio(folder / name, samples, self.sample_rate, subtype=depth)
        energies = {e.query: round(e.energy, 6) for e in self.estimates}
        told = {"name": "mixture", "files": files, "queries": queries, "energy": energies}
        return [told | {"sample_rate": self.sample_rate}]


@dataclass
class Tally:
    """Energy of a mixture and of the sounds found in it, added up as they pass."""

    power: float = 0.0
    energy: list[float] = field(default_factory=list)

    def heard(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Count pieces of the mixture."""
        for block in blocks:
            self.power += float(block.double().square().sum())
            yield block

    def found(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Count pieces (k, channels, m) of k sounds."""
        for piece in pieces:
            own = piece.double().square().sum((1, 2)).tolist()
            self.energy = [a + b for a, b in zip(self.energy or [0.0] * len(own), own, strict=True)]
            yield piece

    @property
    def shares(self) -> list[float]:
        """Return the energy of each sound over the mixture's."""
        return [energy / (self.power or 1.0) for energy in self.energy]


def file_names(queries: Sequence[str], suffix: str = "", *, residual: bool = False) -> list[str]:
    """Return a file for each query, no two alike and none that of the residual, then that.

    Examples
    --------
    >>> file_names(["Rain!", "rain", "residual", "шум дождя"])
    ['rain.wav', 'rain_2.wav', 'residual_2.wav', 'шум_дождя.wav']
    """
    names: list[str] = []
    for query in queries:
        name, number = file_stem(query), 1
        while (numbered := name if number == 1 else f"{name}_{number}") in (RESIDUAL, *names):
            number += 1
        names.append(numbered)
    return [f"{name}{suffix or WAV}" for name in (*names, *([RESIDUAL] if residual else ()))]


def file_stem(query: str) -> str:
    """Return a query as the name of a file."""
    words = re.sub(r"\W+", "_", unicodedata.normalize("NFC", query).lower()).strip("_")
    name = words.encode()[: _LONGEST - _NUMBER].decode(errors="ignore").strip("_") or "estimate"
    return os.fsdecode(name.encode())  # whatever the locale takes names of files to be
