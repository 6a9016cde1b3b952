"""Which residue names are amino acids, and of what type."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from rectiflow_protein.residues import BACKBONE_ATOMS, ONE_LETTER, THREE_LETTER, UNKNOWN

TERMINAL_OXYGENS = ("O", "OT1", "O1", "OC1", "OT", "OXT")
"""Names of the carbonyl oxygen; at the end of a chain each force field has its own."""

ATOM_NAMES = frozenset((*BACKBONE_ATOMS, *TERMINAL_OXYGENS))
"""Atoms that are read."""

_TYPE_OF_NAME = {name: i for i, name in enumerate(THREE_LETTER)}
_VARIANTS = {
    "HIS": "HSD HSE HSP HID HIE HIP HIN HISA HISB HISD HISE HISH HISP HIS1 HIS2",
    "CYS": "CYX CYM CYN CYSH CYS1 CYS2 CYSX",
    "ASP": "ASH ASPH ASPP",
    "GLU": "GLH GLUH GLUP",
    "LYS": "LYN LSN LYP LYSH",
    "ARG": "ARN ARGN",
    "TYR": "TYM TYN",
}
_PARENTS = {name: name for name in THREE_LETTER}
_PARENTS |= {name: parent for parent, names in _VARIANTS.items() for name in names.split()}
FORCE_FIELD = _PARENTS | {
    end + name: parent for end in "NC" for name, parent in _PARENTS.items() if len(name) == 3
}
"""Parents of the names that CHARMM, AMBER and GROMOS give to protonation states and chain ends."""

_WATER = frozenset({"HOH", "WAT", "DOD", "H2O", "SOL", "TIP", "TIP3", "TP3", "SPC"})


def is_amino(name: str, atom_names: Collection[str]) -> bool:
    """Whether a residue is an amino acid, by its name or else by its atoms."""
    return name not in _WATER and (is_known(name) or set(BACKBONE_ATOMS) <= set(atom_names))


def is_known(name: str) -> bool:
    """Whether a residue name is that of an amino acid."""
    return name in FORCE_FIELD or "PEPTIDE" in _component(name)[0]


def type_of(name: str, *, hetero: bool) -> int:
    """Residue type by name: of the parent of a modified residue, unknown if it has none.

    The names of force fields win in ATOM records, the chemical component dictionary in HETATM
    records (there HSE is homoserine). Mirrored (D) amino acids are unknown.
    """
    if not hetero and name in FORCE_FIELD:
        return _TYPE_OF_NAME[FORCE_FIELD[name]]
    kind, letter = _component(name)
    known = "PEPTIDE" in kind and not kind.startswith("D-") and letter in ONE_LETTER
    return ONE_LETTER.index(letter) if known else UNKNOWN


@lru_cache(maxsize=4096)
def _component(name: str) -> tuple[str, str]:
    """Linking type and one-letter code from the chemical component dictionary, or empty."""
    if name in _TYPE_OF_NAME:
        return "L-PEPTIDE LINKING", ONE_LETTER[_TYPE_OF_NAME[name]]
    import biotite.structure.info as info

    return (info.link_type(name) or "").upper(), info.one_letter_code(name) or "X"
