"""What a separation returns, and how it is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import claim


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
        return re.sub(r"[^a-z0-9]+", "_", self.query.lower()).strip("_")[:60] or "estimate"


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

    def save(self, folder: Path | str, *, suffix: str = ".wav") -> list[Path]:
        """Write a sound for each query, ``residual`` if there is one, and ``result.json``.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        suffix : str
            Format of the sounds.

        Returns
        -------
        list of Path
            The sounds.
        """
        from rectiflow_audio.io import write_audio

        target = Path(folder)
        sounds = {
            (e.name if self._names.count(e.name) == 1 else f"{e.name}_{i}"): e.samples
            for i, e in enumerate(self.estimates)
        }
        if self.residual is not None:
            sounds["residual"] = self.residual
        written = [target / f"{name}{suffix}" for name in sounds]
        with claim(target, "separated sounds", ["result.json", *(path.name for path in written)]):
            for path, samples in zip(written, sounds.values(), strict=True):
                write_audio(path, samples, self.sample_rate)
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

    @property
    def _names(self) -> list[str]:
        return [e.name for e in self.estimates]


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    write_json(path, summary)
