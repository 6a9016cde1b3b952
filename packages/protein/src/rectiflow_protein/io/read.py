"""Read backbones from PDB, mmCIF and BinaryCIF files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rectiflow_protein.io.atoms import Parsed
from rectiflow_protein.io.backbone import Backbone
from rectiflow_protein.io.chains import Residue, residues_of
from rectiflow_protein.io.content import MAX_BYTES, format_of, read_content, stem_of
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.io.mmcif import parse_bcif, parse_cif
from rectiflow_protein.io.pdb import parse_pdb
from rectiflow_protein.io.residue_names import type_of

_NANOMETRES = (0.12, 0.18)  # N-CA bonds in this range (1.46 Å) are given in nanometres
_RIGID = 0.05  # Å by which distances of two copies may differ, rounding included
_MOVED = 0.5  # Å
_TORN, _INTACT = 0.5, 0.25  # shares of breaks in noise, and in a structure


def read_structure(
    path: str | Path,
    *,
    model: int | None = None,
    chain: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Backbone:
    """Read the protein backbone of a structure file.

    Residues keep the author's chains, numbers and insertion codes; a second chain of one name is
    called ``NAME-2``. Of alternate locations one is read along each stretch of disorder, the one
    of highest occupancy. Modified residues are read as their parent (MSE as M) by the chemical
    component dictionary, names of force fields (HSE, CYX, GLH) as theirs, D-amino acids as
    unknown. HETATM residues count if they are bonded to a chain; ligands, waters and nucleic acids
    are left out. Every amino acid, model and block that is left out is listed in ``dropped``; gaps
    stay gaps, see ``breaks``.

    Parameters
    ----------
    path : str or Path
        PDB (``.pdb``, ``.ent``, ``.pdb1``), mmCIF (``.cif``, ``.mmcif``) or BinaryCIF (``.bcif``)
        file, also compressed (``.gz``).
    model : int, optional
        Which model, from 1. By default the first; of a trajectory from noise the last.
    chain : str, optional
        Read this chain alone.
    max_bytes : int, default 128 MiB
        Largest file, uncompressed; reading takes up to ten times as much memory.

    Returns
    -------
    Backbone
        At least one residue.

    Raises
    ------
    StructureError
        If the file cannot be read, holds no such model, chain or any protein, is larger than
        ``max_bytes``, is in nanometres, or has residues that cannot be told apart.
    """
    path = Path(path)
    parsed = _parse(path, max_bytes)
    count = len(parsed.models)
    if count and model is not None and not 1 <= model <= count:
        raise StructureError(
            path, f"it has no model {model}", f"1 <= model <= {count}", "Models count from 1."
        )
    if model is not None or count < 2:
        found = _backbone(path, parsed, model or 1, chain)
    else:
        found = _chosen_model(path, parsed, chain)
    return replace(found, dropped=(*parsed.dropped, *found.dropped))


def _parse(path: Path, max_bytes: int) -> Parsed:
    content = read_content(path, max_bytes)
    kind = format_of(path)
    if kind == "bcif":
        return parse_bcif(path, content, max_bytes)
    return parse_cif(path, content) if kind == "cif" else parse_pdb(path, content)


def _backbone(path: Path, parsed: Parsed, model: int, chain: str | None) -> Backbone:
    """Read one model."""
    records = parsed.models[model - 1] if parsed.models else ()
    residues, dropped = residues_of(parsed.atoms(records), path)
    names = parsed.residues
    if chain is not None:
        known = dict.fromkeys((*parsed.residues, *(residue.chain for residue in residues)))
        if chain not in known:
            raise StructureError(
                path,
                f"it has no chain {chain!r}",
                f"one of {', '.join(map(repr, known))}",
                "Chain names are the author's and upper and lower case differ.",
            )
        residues = [residue for residue in residues if residue.chain == chain]
        dropped = [text for text in dropped if text.startswith(f"{chain}/")]
        names = {chain: parsed.residues.get(chain, {})}
    if not residues:
        kinds = dict.fromkeys(name for found in names.values() for name in found)
        raise StructureError(
            path, _what_else(list(kinds), dropped), "a protein chain", "Is this the right file?"
        )
    _check_unit(path, residues)
    return Backbone(
        coords=np.stack([r.xyz for r in residues]).astype(np.float32),
        aatype=np.array([type_of(r.name, hetero=r.hetero) for r in residues], dtype=np.int8),
        residue_index=np.array([r.number for r in residues], dtype=np.int32),
        insertion_codes=np.array([r.code for r in residues], dtype="<U4"),
        chain_ids=np.array([r.chain for r in residues]),
        name=stem_of(path),
        resolution=parsed.resolution,
        dropped=tuple(dropped),
    )


def _chosen_model(path: Path, parsed: Parsed, chain: str | None) -> Backbone:
    """Read the model that is meant, and say what the others are."""
    count = len(parsed.models)
    first, last = (_backbone_or_none(path, parsed, k, chain) for k in (1, count))
    if last is not None and (
        parsed.trajectory or (first is not None and _torn(first) > _TORN and _torn(last) < _INTACT)
    ):
        others = "model 1 leads" if count == 2 else f"models 1-{count - 1} lead"
        said = f"{others} from noise to the last, which was read"
        return replace(last, dropped=(*last.dropped, said))
    if first is None:
        return _backbone(path, parsed, 1, chain)  # for its error
    copies = []
    for k in range(2, count + 1):
        other = _backbone_or_none(path, parsed, k, chain)
        if other is None or not _is_moved_copy(first, other):
            break
        copies.append(f"model {k} holds the same chains moved as a whole: an assembly as models")
    if len(copies) == count - 1:
        return replace(first, copies=count, dropped=(*first.dropped, *copies))
    others = "model 2 holds" if count == 2 else f"models 2-{count} hold"
    return replace(first, dropped=(*first.dropped, f"{others} other coordinates"))


def _backbone_or_none(path: Path, parsed: Parsed, model: int, chain: str | None) -> Backbone | None:
    try:
        return _backbone(path, parsed, model, chain)
    except StructureError:
        return None


def _torn(backbone: Backbone) -> float:
    return len(backbone.breaks) / max(len(backbone) - 1, 1)


def _is_moved_copy(first: Backbone, other: Backbone) -> bool:
    """Whether two models differ by one rigid motion, by their distances from a few atoms."""
    if first.coords.shape != other.coords.shape:
        return False
    x, y = (b.coords.reshape(-1, 3) for b in (first, other))
    anchors = np.linspace(0, len(x) - 1, 4).astype(int)
    inside = [np.linalg.norm(z[:, None] - z[anchors], axis=-1) for z in (x, y)]
    return bool(np.abs(inside[0] - inside[1]).max() < _RIGID and np.abs(x - y).max() > _MOVED)


def _check_unit(path: Path, residues: Sequence[Residue]) -> None:
    xyz = np.stack([residue.xyz for residue in residues])
    bond = float(np.median(np.linalg.norm(xyz[:, 0] - xyz[:, 1], axis=-1)))
    if _NANOMETRES[0] < bond < _NANOMETRES[1]:
        step = np.median(np.linalg.norm(np.diff(xyz[:, 1], axis=0), axis=-1)) if len(xyz) > 1 else 0
        raise StructureError(
            path,
            f"it is in nanometres: neighbouring CA are {step:.2f} apart and N-CA bonds {bond:.3f}",
            "ångström, about 3.8 and 1.46",
            "Multiply the coordinates by 10.",
        )


def _what_else(names: list[str], dropped: list[str]) -> str:
    """Say what a file without protein has instead."""
    if dropped:
        return f"no amino acid has a whole backbone (the first: {dropped[0]})"
    if not names:
        return "it holds no atom"
    others = [name for name in names if name != "HOH"] or names
    return f"it holds no amino acid, only {', '.join(others[:6])}"
