"""Generated backbones and how they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.results import Result
from torch import Tensor

from rectiflow_protein.metrics import backbone_metrics
from rectiflow_protein.residues import ATOM5, BACKBONE_ATOMS

if TYPE_CHECKING:
    from rectiflow_protein.io import Backbone

NO_CB = [ATOM5.index(atom) for atom in BACKBONE_ATOMS]
"""Rows of N, CA, C and O among the five atoms of poly-alanine."""


@dataclass(frozen=True)
class BackboneSample:
    """One generated backbone.

    Attributes
    ----------
    index : int
        Number of the sample; with the seed it fixes the noise, whatever the batch.
    atoms : ndarray, shape (n, 5, 3)
        Ångström; N, CA, C, CB, O of poly-alanine.
    frames, noise : dict of Tensor
        Final and initial frames, ``trans (n, 3)`` and ``rot (n, 4)``.
    trajectory : ndarray, shape (steps, n, 5, 3), optional
        Atoms of the states, noise first.
    predictions : ndarray, shape (steps, n, 5, 3), optional
        Atoms of the clean chain as predicted at each step.
    sequence : str, optional
        One-letter; alanine except for residues of a motif. All alanine if absent.
    motif : tuple of int
        Rows of a motif's residues, in its order.
    shown : Backbone, optional
        What to write where that is more than the chain, or not poly-alanine.
    told : dict
        What constraints know of the sample, beside its metrics.
    label : str
        The stem of the sample's files; by length and number if absent.
    """

    index: int
    atoms: np.ndarray
    frames: dict[str, Tensor]
    noise: dict[str, Tensor]
    trajectory: np.ndarray | None = None
    predictions: np.ndarray | None = None
    sequence: str | None = None
    motif: tuple[int, ...] = ()
    shown: Backbone | None = None
    told: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def name(self) -> str:
        """Return the stem of the sample's files."""
        return self.label or sample_name(len(self.atoms), self.index)

    @property
    def movies(self) -> dict[str, np.ndarray]:
        """Return what was recorded on the way, by name."""
        found = {"trajectory": self.trajectory, "predictions": self.predictions}
        return {name: movie for name, movie in found.items() if movie is not None}

    def metrics(self) -> dict[str, float]:
        """Return geometry and secondary structure, rounded for reading."""
        found = backbone_metrics(torch.from_numpy(self.atoms[:, NO_CB]))
        return {name: round(float(value), 4) for name, value in found.items()}

    def backbone(self, atoms: np.ndarray | None = None) -> Backbone:
        """Return the chain, of other atoms than the final ones if given."""
        from rectiflow_protein.io import Backbone

        return Backbone.from_coords(
            (self.atoms if atoms is None else atoms)[:, NO_CB],
            name=self.name,
            sequence=self.sequence,
        )


@dataclass(frozen=True)
class BackboneResult(Result):
    """Generated backbones and how they were made.

    Attributes
    ----------
    samples : list of BackboneSample
        In the order of the lengths that were asked for.
    """

    samples: list[BackboneSample]

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write a structure per sample, ``.pdb`` or ``.cif``, and its trajectories if recorded."""
        from rectiflow_protein.io import write_structure

        rows = []
        for sample in self.samples:
            files = file_names(sample.name, suffix, movies=bool(sample.movies))
            (folder / files[0]).parent.mkdir(parents=True, exist_ok=True)
            for name, movie in sample.movies.items():
                models = [sample.backbone(atoms) for atoms in movie]
                write_structure(folder / f"{sample.name}_{name}{suffix or PDB}", models)
            write_structure(folder / files[0], sample.shown or sample.backbone())
            told = {"name": sample.name, "index": sample.index, "length": len(sample.atoms)}
            rows.append({**told, "files": files, **sample.told, **sample.metrics()})
        return rows


PDB = ".pdb"


def sample_name(length: int, index: int) -> str:
    """Return the stem of a sample's files."""
    return f"length_{length:03d}_sample_{index:05d}"


def file_names(stem: str, suffix: str = "", *, movies: bool = False) -> list[str]:
    """Return the names of a sample's files: the structure, then what was recorded on the way."""
    ends = ("", "_trajectory", "_predictions") if movies else ("",)
    return [f"{stem}{end}{suffix or PDB}" for end in ends]
