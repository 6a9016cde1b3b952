"""What the readers of all formats hand on: backbone atoms of amino acids."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rectiflow_protein.io.errors import StructureError

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_LARGEST_NUMBER = 2**31


class Atom(NamedTuple):
    """One backbone atom of an amino acid, as its file has it.

    ``unit`` tells chains of one name apart (segment, or ``label_asym_id``), ``ended`` counts the
    chain ends (TER) above it; ``xyz`` is in ångström, NaN where the file has no number.
    """

    chain: str
    unit: str
    number: int
    code: str
    residue: str
    name: str
    alt: str
    occupancy: float
    hetero: bool
    xyz: tuple[float, float, float]
    ended: int


@dataclass(frozen=True)
class Parsed:
    """A file cut into models, whose atoms are made when they are asked for.

    Attributes
    ----------
    models : sequence of sequences
        Records of each model, in the form of the format.
    atoms : callable
        Turns the records of a model into atoms of amino acids.
    residues : dict
        Names of all residues, by chain.
    resolution : float, optional
        In ångström.
    trajectory : bool
        Whether the file says that its models lead from noise to a structure.
    dropped : tuple of str
        What was left out of the whole file.
    """

    models: Sequence[Sequence[Any]]
    atoms: Callable[[Sequence[Any]], list[Atom]]
    residues: dict[str, dict[str, None]] = field(default_factory=dict)
    resolution: float | None = None
    trajectory: bool = False
    dropped: tuple[str, ...] = ()


def number_at(path: Path, where: str, text: str) -> float:
    """Parse a decimal number, or say where in the file there is none."""
    if not _NUMBER.fullmatch(text):
        raise StructureError(
            path,
            f"{where}: {text.strip()[:20]!r} is no number",
            "a decimal number",
            "Is the file cut short, or do its columns run together?",
        )
    return float(text)


def integer_at(path: Path, where: str, text: str) -> int:
    """Parse a residue number, or say where in the file there is none."""
    if (
        not re.fullmatch(r"\s*[+-]?\d{1,10}\s*", text, re.ASCII)
        or abs(int(text)) >= _LARGEST_NUMBER
    ):
        raise StructureError(
            path,
            f"{where}: {text.strip()[:20]!r} is no residue number",
            "a whole number",
            "Number the residues anew: each must be told from the others.",
        )
    return int(text)


def positive(text: str | None) -> float | None:
    """Return a resolution, None where the text is no positive number."""
    value = float(text) if text is not None and _NUMBER.fullmatch(text) else 0.0
    return value if 0 < value < float("inf") else None
