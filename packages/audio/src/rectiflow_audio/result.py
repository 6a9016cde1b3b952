"""What a separation returns, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.results import Result
from torch import Tensor

WAV = ".wav"
RESIDUAL = "residual"


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
        """Return the query as a file name."""
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

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write a sound for each query, and ``residual`` if there is one."""
        from rectiflow_audio.io import write_audio

        queries = [e.query for e in self.estimates]
        files = file_names(queries, suffix, residual=self.residual is not None)
        sounds = [e.samples for e in self.estimates]
        sounds += [] if self.residual is None else [self.residual]
        for name, samples in zip(files, sounds, strict=True):
            write_audio(folder / name, samples, self.sample_rate)
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


def file_stem(query: str) -> str:
    """Return a query as a file name."""
    return re.sub(r"[^a-z0-9]+", "_", query.lower()).strip("_")[:60] or "estimate"


def file_names(queries: Sequence[str], suffix: str = "", *, residual: bool = False) -> list[str]:
    """Return a name for each query, numbered where they are the same, and for the residual."""
    stems = [file_stem(query) for query in queries]
    names = [n if stems.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(stems)]
    return [f"{name}{suffix or WAV}" for name in (*names, *([RESIDUAL] if residual else ()))]
