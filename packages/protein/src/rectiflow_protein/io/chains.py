"""From atoms in file order to the residues of chains, and what is left out on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rectiflow_protein.io.atoms import Atom
from rectiflow_protein.io.backbone import PEPTIDE_BREAK
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.io.residue_names import TERMINAL_OXYGENS
from rectiflow_protein.residues import BACKBONE_ATOMS

_COINCIDENT = 0.1  # Å; nearer atoms of one residue lie on one point
_PAIRS = np.triu_indices(len(BACKBONE_ATOMS), 1)
_TORN = 3.0  # Å from CA; N, C and O lie within 2.5

Key = tuple[int, str]
"""Residue number and insertion code."""


class Residue(NamedTuple):
    """A residue with a whole backbone; ``xyz`` (4, 3) holds N, CA, C, O in ångström."""

    chain: str
    number: int
    code: str
    name: str
    hetero: bool
    xyz: np.ndarray


class _Part:
    """Atoms of one chain by residue, in file order."""

    def __init__(self, atom: Atom) -> None:
        self.chain = atom.chain
        self.residues: dict[Key, list[Atom]] = {}
        self.seen: dict[tuple[Key, str, str], Atom] = {}
        self.last, self.ended = (atom.number, atom.code), atom.ended

    def add(self, atom: Atom) -> None:
        key = (atom.number, atom.code)
        if self.seen.setdefault((key, atom.alt, atom.name), atom) is atom:
            self.residues.setdefault(key, []).append(atom)
        self.last = key
        if not atom.hetero:
            self.ended = atom.ended

    def continues_with(self, atom: Atom, path: Path) -> bool:
        """Whether an atom belongs to this chain, or starts another one of the same name."""
        key = (atom.number, atom.code)
        same = self.seen.get((key, atom.alt, atom.name))
        if same is None:
            # A blank name is none: the end of a chain then is its end.
            ends = atom.ended > self.ended and not self.chain and not atom.hetero
            return not ends or key in self.residues
        if same.xyz == atom.xyz:
            return True  # said twice
        if key != self.last and (atom.ended > self.ended or key < self.last):
            return False
        raise StructureError(
            path,
            f"residue {self.chain}/{atom.number}{atom.code} {atom.residue} occurs twice (atom "
            f"{atom.name})",
            "residues that can be told apart",
            "Give each chain a name of its own, or each alternate location a letter.",
        )


def residues_of(atoms: Sequence[Atom], path: Path) -> tuple[list[Residue], list[str]]:
    """Residues with a whole backbone, chain by chain, and what was left out with its reason.

    Chains of one name are told apart by segment or ``label_asym_id``, by a numbering that starts
    again, and where the name is blank by TER; the second is called ``NAME-2``.
    """
    parts: list[_Part] = []
    current: dict[tuple[str, str], _Part] = {}
    for atom in atoms:
        part = current.get((atom.chain, atom.unit))
        if part is None or not part.continues_with(atom, path):
            part = current[atom.chain, atom.unit] = _Part(atom)
            parts.append(part)
        part.add(atom)
    kept: list[Residue] = []
    dropped: list[str] = []
    names = {part.chain for part in parts}
    used: set[str] = set()
    for part in _joined(parts):
        name = _free_name(part.chain, used, names)
        found = _whole(part, name, dropped)
        chain = _in_place(found, dropped)
        if chain:
            used.add(name)
        kept += chain
    return kept, dropped


def _joined(parts: list[_Part]) -> list[_Part]:
    """Parts of blank chains, a TER between two bonded residues undone."""
    joined: list[_Part] = []
    for part in parts:
        before = joined[-1] if joined else None
        if before and not part.chain and not before.chain and not set(before.residues) & set(
            part.residues
        ):  # fmt: skip
            end = [a.xyz for a in before.residues[before.last] if a.name == "C"]
            start = [a.xyz for a in next(iter(part.residues.values())) if a.name == "N"]
            if any(np.linalg.norm(np.subtract(a, b)) <= PEPTIDE_BREAK for a in end for b in start):
                before.residues |= part.residues
                before.last = part.last
                continue
        joined.append(part)
    return joined


def _free_name(chain: str, used: set[str], names: set[str]) -> str:
    """Name for a chain: its own, or with a number if that is taken."""
    name, count = chain, 1
    while name in used or (count > 1 and name in names):
        count += 1
        name = f"{chain}-{count}"
    return name


def _whole(part: _Part, chain: str, dropped: list[str]) -> list[Residue]:
    """Residues of a part whose backbone is whole, of one conformer along the chain."""
    found = []
    for (number, code), conformer in zip(
        part.residues, _conformers(list(part.residues.values())), strict=True
    ):
        atoms = {atom.name: atom for atom in conformer}
        oxygen = next((name for name in TERMINAL_OXYGENS if name in atoms), None)
        if oxygen is not None:
            atoms["O"] = atoms[oxygen]
        first = conformer[0]
        label = f"{chain}/{number}{code} {first.residue}"
        missing = [name for name in BACKBONE_ATOMS if name not in atoms]
        if missing:
            dropped.append(f"{label} lacks {', '.join(missing)}")
            continue
        xyz = np.array([atoms[name].xyz for name in BACKBONE_ATOMS])
        fault = _fault(xyz)
        if fault:
            dropped.append(f"{label} {fault}")
            continue
        hetero = atoms["CA"].hetero
        found.append(Residue(chain, number, code, first.residue, hetero, xyz))
    return found


def _fault(xyz: np.ndarray) -> str | None:
    """Say what is impossible in the coordinates of a residue."""
    if not np.isfinite(xyz).all():
        return "has a coordinate that is no number"
    apart = np.linalg.norm(xyz[:, None] - xyz[None], axis=-1)
    if (apart[_PAIRS] < _COINCIDENT).any():
        return "has atoms on one point"
    if (~xyz.any(-1) & (apart[1] > _TORN)).any() or (not xyz[1].any() and (apart[1] > _TORN).any()):
        return "has an atom at the origin, far from the others"
    return None


def _conformers(residues: list[list[Atom]]) -> list[list[Atom]]:
    """Atoms of one conformer of each residue, the same one along a stretch of disorder.

    Of the letters that all residues of a stretch have, the one with the most occupancy wins, the
    first of equals; whole backbones go first.
    """
    options = [_options(atoms) for atoms in residues]
    chosen: list[list[Atom]] = []
    start = 0
    while start < len(options):
        common, end = dict.fromkeys(options[start]), start + 1
        while end < len(options) and len(common) > 1:
            shared = {alt: None for alt in common if alt in options[end]}
            if not shared or len(options[end]) == 1:
                break
            common, end = shared, end + 1
        stretch = options[start:end]

        def score(alt: str, stretch: list[dict[str, list[Atom]]] = stretch) -> tuple[int, float]:
            whole = sum(len({a.name for a in found[alt]}) >= 4 for found in stretch)
            return whole, sum(_occupancy(found[alt]) for found in stretch)

        best = max(common, key=score)  # the first of equals
        chosen += [found[best] for found in stretch]
        start = end
    return chosen


def _options(atoms: list[Atom]) -> dict[str, list[Atom]]:
    """Conformers of a residue by letter, shared atoms in each; of one residue name each."""
    if not any(atom.alt for atom in atoms):
        return {"": atoms}
    letters = list(dict.fromkeys(atom.alt for atom in atoms if atom.alt))
    found: dict[str, list[Atom]] = {}
    for letter in letters:
        by_name: dict[str, list[Atom]] = defaultdict(list)
        for atom in atoms:
            if atom.alt == letter:
                by_name[atom.residue].append(atom)
        name = max(by_name, key=lambda name: (len(by_name[name]), _occupancy(by_name[name])))
        own = by_name[name]
        shared = [a for a in atoms if not a.alt and a.residue == name]
        found[letter] = own + [a for a in shared if a.name not in {b.name for b in own}]
    return found


def _occupancy(atoms: list[Atom]) -> float:
    return sum(atom.occupancy for atom in atoms) / len(atoms)


def _bonded(first: Residue, second: Residue) -> bool:
    """Whether the second residue follows the first in a peptide."""
    return bool(np.linalg.norm(first.xyz[2] - second.xyz[0]) <= PEPTIDE_BREAK)


def _in_place(residues: list[Residue], dropped: list[str]) -> list[Residue]:
    """Residues with HETATM records put where their bonds are; those bonded to nothing are left out.

    Files may list modified residues after the end of their chain.
    """
    runs: list[list[Residue]] = []
    for residue in residues:
        if runs and _bonded(runs[-1][-1], residue):
            runs[-1].append(residue)
        else:
            runs.append([residue])
    chain = [residue for run in runs if not _all_hetero(run) for residue in run]
    waiting = [run for run in runs if _all_hetero(run)]
    left: list[list[Residue]] = []
    while chain and waiting and len(left) != len(waiting):
        left, waiting = waiting, []
        for run in left:
            place = _place(run, chain)
            if place is None:
                waiting.append(run)
            else:
                chain[place:place] = run
    for run in waiting:
        if len(run) > 1:
            chain += run
        else:
            [alone] = run
            label = f"{alone.chain}/{alone.number}{alone.code} {alone.name}"
            dropped.append(f"{label} is a HETATM residue bonded to no chain")
    return chain


def _all_hetero(run: list[Residue]) -> bool:
    return all(residue.hetero for residue in run)


def _place(run: list[Residue], chain: list[Residue]) -> int | None:
    """Where in a chain a run of bonded residues is bonded, None if nowhere."""
    xyz = np.stack([residue.xyz for residue in chain])
    after = np.linalg.norm(xyz[:, 2] - run[0].xyz[0], axis=-1)
    if after.min() <= PEPTIDE_BREAK:
        return int(after.argmin()) + 1
    before = np.linalg.norm(xyz[:, 0] - run[-1].xyz[2], axis=-1)
    return int(before.argmin()) if before.min() <= PEPTIDE_BREAK else None
