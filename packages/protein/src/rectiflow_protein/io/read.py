"""Read backbones from PDB, mmCIF and BinaryCIF files."""

from __future__ import annotations

import gzip
import io
import warnings
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow_protein.io.backbone import PEPTIDE_BREAK, Backbone
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.residues import BACKBONE_ATOMS, ONE_LETTER, THREE_LETTER, UNKNOWN

FORMATS = {
    ".pdb": "pdb",
    ".ent": "pdb",
    ".cif": "cif",
    ".mmcif": "cif",
    ".bcif": "bcif",
}
"""File formats by suffix; each may be followed by ``.gz``."""

_TYPE_OF_NAME = {name: i for i, name in enumerate(THREE_LETTER)}
_FORM = f"a structure file ({', '.join(FORMATS)}, each also .gz)"

Key = tuple[str, int, str]
"""Chain, residue number, insertion code."""


def format_of(path: str | Path) -> str | None:
    """Format a file name promises, None if it is no structure file.

    Examples
    --------
    >>> format_of("1ABC.ENT.gz"), format_of("notes.txt")
    ('pdb', None)
    """
    name = Path(path).name.lower().removesuffix(".gz")
    return FORMATS.get(Path(name).suffix)


def read_structure(path: str | Path, *, model: int = 1, chain: str | None = None) -> Backbone:
    """Read the protein backbone of a structure file.

    Residues keep the author's chains, numbers and insertion codes. Of alternate locations the
    residue kind with the highest occupancy is read, and of that the conformer with the highest
    mean occupancy, the first winning ties. Modified residues are read as their parent (MSE as M)
    by the chemical component dictionary, as unknown if it has none. HETATM residues count if they
    are bonded to a chain; ligands, waters and nucleic acids are left out. Amino acids that lack a
    backbone atom are left out and listed in ``dropped``; gaps stay gaps, see ``breaks``.

    Parameters
    ----------
    path : str or Path
        PDB (``.pdb``, ``.ent``), mmCIF (``.cif``, ``.mmcif``) or BinaryCIF (``.bcif``) file, also
        compressed (``.gz``).
    model : int, default 1
        Which model, from 1.
    chain : str, optional
        Read this chain alone (the author's name of it).

    Returns
    -------
    Backbone
        At least one residue.

    Raises
    ------
    StructureError
        If the file cannot be read, or holds no such model, chain or any protein.
    """
    path = Path(path)
    atoms, resolution = _parse(path, model)
    if chain is not None:
        known = list(dict.fromkeys(atoms.chain_id.tolist()))
        if chain not in known:
            raise StructureError(
                path,
                f"it has no chain {chain!r}",
                f"one of {', '.join(map(repr, known))}",
                "Chain names are the author's and upper and lower case differ.",
            )
        atoms = atoms[atoms.chain_id == chain]
    names = dict.fromkeys(atoms.res_name.tolist())
    atoms = atoms[np.isin(atoms.atom_name, BACKBONE_ATOMS)]
    rows, dropped = _select(atoms)
    if not rows:
        raise StructureError(
            path, _what_else(list(names), dropped), "a protein chain", "Is this the right file?"
        )
    keys, kinds, index = zip(*rows, strict=True)
    return Backbone(
        coords=atoms.coord[np.array(index)].astype(np.float32),
        aatype=np.array([_type_of(name) for name in kinds], dtype=np.int8),
        residue_index=np.array([number for _, number, _ in keys], dtype=np.int32),
        insertion_codes=np.array([code for _, _, code in keys], dtype="<U4"),
        chain_ids=np.array([chain_id for chain_id, _, _ in keys]),
        name=path.name.removesuffix(".gz").rsplit(".", 1)[0],
        resolution=resolution,
        dropped=tuple(dropped),
    )


def _parse(path: Path, model: int) -> tuple[Any, float | None]:
    """All atoms with all alternate locations, and the resolution."""
    kind = format_of(path)
    if kind is None:
        raise StructureError(path, f"its suffix is {path.suffix!r}", _FORM, "Rename or convert it.")
    if not path.is_file():
        raise StructureError(path, "there is no such file", _FORM, "Check the path.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if not content.strip():
            raise StructureError(path, "it is empty", _FORM, "Fetch it again.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # guessed elements do not matter here
            models, atoms, resolution = _parse_content(content, kind, model)
    except StructureError:
        raise
    except Exception as error:
        # The parsers raise anything from IndexError to UnicodeDecodeError on damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StructureError(
            path,
            f"it cannot be read as {kind} ({type(error).__name__}: {reason[:120]})",
            _FORM,
            "Is it truncated, or does the suffix lie?",
        ) from error
    if atoms is None:
        raise StructureError(
            path, f"it has no model {model}", f"1 <= model <= {models}", "Models count from 1."
        )
    return atoms, resolution


def _parse_content(content: bytes, kind: str, model: int) -> tuple[int, Any, float | None]:
    """Count models and read the atoms of one, None if there is no such model."""
    import biotite.structure.io.pdb as pdb
    import biotite.structure.io.pdbx as pdbx

    options: dict[str, Any] = {"altloc": "all", "extra_fields": ["occupancy"]}
    if kind == "bcif":
        binary = pdbx.BinaryCIFFile.read(io.BytesIO(content))
        models = pdbx.get_model_count(binary)
    else:
        text = io.StringIO(content.decode("utf-8", errors="replace"))
        binary = pdb.PDBFile.read(text) if kind == "pdb" else pdbx.CIFFile.read(text)
        models = binary.get_model_count() if kind == "pdb" else pdbx.get_model_count(binary)
    if not 1 <= model <= models:
        if models == 0:
            raise ValueError("no atoms")
        return models, None, None
    if kind == "pdb":
        return models, binary.get_structure(model=model, **options), _pdb_resolution(binary)
    return models, pdbx.get_structure(binary, model=model, **options), _cif_resolution(binary)


def _pdb_resolution(file: Any) -> float | None:
    """Resolution of a REMARK 2 record."""
    for line in file.lines:
        if line.startswith("REMARK   2 RESOLUTION."):
            return _positive(line[23:30])
    return None


def _cif_resolution(file: Any) -> float | None:
    """Resolution of the refinement, or of the electron microscopy reconstruction."""
    for category, column in (
        ("refine", "ls_d_res_high"),
        ("em_3d_reconstruction", "resolution"),
    ):
        if category in file.block and column in file.block[category]:
            found = _positive(str(file.block[category][column].as_array()[0]))
            if found is not None:
                return found
    return None


def _positive(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value > 0 else None


def _select(atoms: Any) -> tuple[list[tuple[Key, str, list[int]]], list[str]]:
    """Residues with a whole backbone as (key, name, atom rows), and what was left out."""
    rows: list[tuple[Key, str, list[int]]] = []
    hetero: list[bool] = []
    dropped: list[str] = []
    for key, kinds in _by_residue(atoms).items():
        chosen = _highest_occupancy(atoms, kinds)
        if chosen is None:
            continue
        name, conformer = chosen
        missing = [atom for atom in BACKBONE_ATOMS if atom not in conformer]
        if missing:
            dropped.append(f"{_label(key)} {name} lacks {', '.join(missing)}")
            continue
        index = [conformer[atom] for atom in BACKBONE_ATOMS]
        if not np.isfinite(atoms.coord[index]).all():
            dropped.append(f"{_label(key)} {name} has a coordinate that is no number")
            continue
        rows.append((key, name, index))
        hetero.append(bool(atoms.hetero[index[1]]))
    bonded = _bonded(atoms, rows)
    for row, is_hetero, is_bonded in zip(rows, hetero, bonded, strict=True):
        if is_hetero and not is_bonded and row[1] in _TYPE_OF_NAME:
            dropped.append(f"{_label(row[0])} {row[1]} is a HETATM residue bonded to no chain")
    keep = [b or not h for b, h in zip(bonded, hetero, strict=True)]
    return [row for row, kept in zip(rows, keep, strict=True) if kept], dropped


def _by_residue(atoms: Any) -> dict[Key, dict[str, list[int]]]:
    """Atom rows by residue, then by residue name (point mutations share one number)."""
    residues: dict[Key, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    columns = (atoms.chain_id, atoms.res_id, atoms.ins_code, atoms.res_name)
    for i, (chain, number, code, name) in enumerate(
        zip(*(c.tolist() for c in columns), strict=True)
    ):
        residues[chain, number, code.strip(" .?")][name].append(i)
    return residues


def _highest_occupancy(
    atoms: Any, kinds: dict[str, list[int]]
) -> tuple[str, dict[str, int]] | None:
    """Name and atoms of the best conformer of the amino acids at one number, None if none is."""
    best: tuple[float, str, dict[str, int]] | None = None
    for name, index in kinds.items():
        if not _is_amino(name, set(atoms.atom_name[index].tolist())):
            continue
        by_location: dict[str, list[int]] = defaultdict(list)
        for i in index:
            by_location[str(atoms.altloc_id[i])].append(i)
        ranked = sorted(by_location.values(), key=lambda rows: -_mean_occupancy(atoms, rows))
        conformer: dict[str, int] = {}
        for rows in ranked:
            for i in rows:
                conformer.setdefault(str(atoms.atom_name[i]), i)
        occupancy = _mean_occupancy(atoms, ranked[0])
        if best is None or occupancy > best[0]:
            best = (occupancy, name, conformer)
    return None if best is None else best[1:]


def _mean_occupancy(atoms: Any, rows: list[int]) -> float:
    return float(atoms.occupancy[rows].mean())


def _bonded(atoms: Any, rows: list[tuple[Key, str, list[int]]]) -> list[bool]:
    """Whether each residue has a peptide bond to the one before or after it."""
    bonded = [False] * len(rows)
    for i in range(len(rows) - 1):
        (here, _, index), (there, _, after) = rows[i], rows[i + 1]
        distance = np.linalg.norm(atoms.coord[index[2]] - atoms.coord[after[0]])
        if here[0] == there[0] and distance <= PEPTIDE_BREAK:
            bonded[i] = bonded[i + 1] = True
    return bonded


def _is_amino(name: str, atom_names: set[str]) -> bool:
    """Whether a residue is an amino acid, by its name or else by its atoms."""
    return "PEPTIDE" in _component(name)[0] or atom_names >= set(BACKBONE_ATOMS)


def _type_of(name: str) -> int:
    """Residue type by name, of the parent for a modified residue, unknown if it has none."""
    kind, letter = _component(name)
    return ONE_LETTER.index(letter) if "PEPTIDE" in kind and letter in ONE_LETTER else UNKNOWN


@lru_cache(maxsize=4096)
def _component(name: str) -> tuple[str, str]:
    """Linking type and one-letter code from the chemical component dictionary, or empty."""
    if name in _TYPE_OF_NAME:
        return "L-PEPTIDE LINKING", ONE_LETTER[_TYPE_OF_NAME[name]]
    import biotite.structure.info as info

    return info.link_type(name) or "", info.one_letter_code(name) or "X"


def _label(key: Key) -> str:
    return f"{key[0]}/{key[1]}{key[2]}"


def _what_else(names: list[str], dropped: list[str]) -> str:
    """Say what a file without protein has instead."""
    if dropped:
        return f"no amino acid has a whole backbone (the first: {dropped[0]})"
    others = [name for name in names if name != "HOH"] or names
    return f"it holds no amino acid, only {', '.join(others[:6])}"
