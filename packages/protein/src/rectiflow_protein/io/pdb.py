"""Read PDB files: fixed columns, and the liberties that programs take with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rectiflow_protein.io.atoms import Atom, Parsed, integer_at, number_at, positive
from rectiflow_protein.io.content import as_text
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.io.residue_names import ATOM_NAMES, FORCE_FIELD, is_amino, is_known

TRAJECTORY = "TRAJECTORY FROM NOISE TO STRUCTURE"
"""Title of files whose models are the steps of one sample."""

_HYBRID = re.compile(r"[A-Z][0-9A-Z]{3}|[a-z][0-9a-z]{3}", re.ASCII)
_COORDINATES = (("x", 30, 38), ("y", 38, 46), ("z", 46, 54))

Record = tuple[int, str, int]
"""Line number, line, chain ends (TER) above it in its model."""


def parse_pdb(path: Path, content: bytes) -> Parsed:
    """Cut a PDB file into models and note what it says about itself.

    A model starts with MODEL; in files without that record, after ENDMDL or END.
    """
    models: list[list[Record]] = []
    named: dict[str, None] = {}
    resolution, trajectory, is_open, numbered, ended = None, False, False, False, 0
    for number, line in enumerate(as_text(content), 1):
        if line.startswith(("ATOM", "HETATM")):
            if not is_open:
                models.append([])
                is_open, ended = True, 0
            named[line[17:22]] = None
            if line[12:16].strip() in ATOM_NAMES:
                models[-1].append((number, line, ended))
        elif line.startswith("TER"):
            ended += 1
        elif line[:6].strip() == "MODEL":
            is_open, numbered = False, True
        elif line.startswith("ENDMDL") or line.strip() == "END":
            is_open = is_open and numbered
        elif line.startswith("REMARK   2 RESOLUTION."):
            resolution = positive(line[23:30])
        elif line.startswith("TITLE"):
            trajectory = trajectory or TRAJECTORY in line
    names = _names(named)
    residues: dict[str, dict[str, None]] = defaultdict(dict)
    for residue, chain in names.values():
        residues[chain][residue] = None
    return Parsed(
        models=models,
        atoms=lambda records: _atoms(path, records, names),
        residues=residues,
        resolution=resolution,
        trajectory=trajectory,
    )


def _names(texts: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Residue name and chain of each text in columns 18-22.

    Column 21 is part of a residue name of four letters (HISB), or of a chain name of two: of a
    chain name if any residue there would have no known name with it.
    """
    cut = {text: (text[:3].strip(), text[3:4].strip(), text[4:5].strip()) for text in texts}
    long_chains = any(
        extra and is_known(name) and name + extra not in FORCE_FIELD
        for name, extra, _ in cut.values()
    )
    return {
        text: (name, extra + chain) if long_chains and is_known(name) else (name + extra, chain)
        for text, (name, extra, chain) in cut.items()
    }


def _atoms(
    path: Path, records: Sequence[Record], names: Mapping[str, tuple[str, str]]
) -> list[Atom]:
    """Backbone atoms of the amino acids of a model."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, line, _ in records:
        found[line[17:27]].add(line[12:16])
    amino = {
        key: " CA " in atoms
        for key, atoms in found.items()
        if is_amino(names[key[:5]][0], {atom.strip() for atom in atoms})
    }
    atoms = [
        _atom(path, record, names[record[1][17:22]])
        for record in records
        if (has_alpha := amino.get(record[1][17:27])) is not None
        and not (has_alpha and record[1][12:16] == "CA  ")  # calcium beside the alpha carbon
    ]
    return _with_segments(atoms)


def _atom(path: Path, record: Record, names: tuple[str, str]) -> Atom:
    (number, line, ended), (residue, chain) = record, names
    residue_number, code = _residue_number(path, number, line)
    line = line.rstrip("\r\n")
    xyz = _coordinates(path, number, line)
    occupancy = line[54:60].strip() or "1"
    return Atom(
        chain=chain,
        unit=line[72:76].strip(),
        number=residue_number,
        code=code,
        residue=residue,
        name=line[12:16].strip(),
        alt=line[16].strip(),
        occupancy=number_at(path, f"line {number}, columns 55-60", occupancy),
        hetero=line.startswith("HETATM"),
        xyz=xyz,
        ended=ended,
    )


def _coordinates(path: Path, number: int, line: str) -> tuple[float, float, float]:
    """Position of an atom; columns that slipped are refused, for they cut numbers in two."""
    if line[27:30].strip():
        _slipped(path, number, 28, 30, line[27:30])
    values = []
    for _, start, end in _COORDINATES:
        text = line[start:end]
        values.append(number_at(path, f"line {number}, columns {start + 1}-{end}", text))
        is_whole = re.fullmatch(r"\s*-?\d*\.\d{3}", text) or not line[end : end + 1].strip(" -")
        if len(text) < end - start or (not is_whole and end < _COORDINATES[-1][2]):
            _slipped(path, number, start + 1, end, text)
    return values[0], values[1], values[2]


def _slipped(path: Path, number: int, first: int, last: int, text: str) -> None:
    raise StructureError(
        path,
        f"line {number}, columns {first}-{last}: {text!r} is no coordinate of its own",
        "x, y and z in columns 31-38, 39-46 and 47-54",
        "Is the file cut short, or do its columns run together?",
    )


def _residue_number(path: Path, number: int, line: str) -> tuple[int, str]:
    """Residue number and insertion code; five digits, and base 36 beyond 9999, are read too."""
    wide, text, code = line[22:27], line[22:26], line[26:27].strip()
    if re.fullmatch(r"\d{5}", wide, re.ASCII):
        return int(wide), ""
    if _HYBRID.fullmatch(text):
        first = 10 if text[0].isupper() else -16
        return int(text, 36) - first * 36**3 + 10**4, code
    return integer_at(path, f"line {number}, columns 23-26", text), code


def _with_segments(atoms: list[Atom]) -> list[Atom]:
    """Use segment names where they are such; some programs put other things in their columns."""
    for before, atom in pairwise(atoms):
        same = before[0] == atom[0] and before[2:5] == atom[2:5]
        if same and before.unit != atom.unit:
            return [a._replace(unit="") for a in atoms]
    segments = {atom.unit for atom in atoms}
    if len(segments) > 1 and "" not in segments and not any(atom.chain for atom in atoms):
        return [atom._replace(chain=atom.unit) for atom in atoms]
    return atoms
