"""Write backbones to PDB, mmCIF and BinaryCIF files."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.spaces import quat_to_rotmat
from rectiflow.storage.files import write_bytes

from rectiflow_protein.frames import frames_from_backbone
from rectiflow_protein.io.backbone import Backbone
from rectiflow_protein.io.content import FORMATS, format_of
from rectiflow_protein.io.pdb import TRAJECTORY
from rectiflow_protein.residues import BACKBONE_ATOMS, IDEAL_CB, THREE_LETTER

_GLYCINE = THREE_LETTER.index("GLY")


def write_structure(
    path: str | Path,
    backbone: Backbone | Sequence[Backbone],
    *,
    b_factor: float | np.ndarray = 100.0,
) -> Path:
    """Write a backbone, or a trajectory of one as the models of a file.

    CB is placed at its ideal position in every residue but glycine; unknown residues are UNK. The
    file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        ``.pdb``, ``.ent``, ``.cif``, ``.mmcif`` or ``.bcif``, also with ``.gz``.
    backbone : Backbone or sequence of Backbone
        One model each; all models must have the same residues.
    b_factor : float or ndarray of shape (n,), default 100.0
        Of every residue. The published value is 100 for generated residues, 0 for a motif.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ValueError
        If the models differ in their residues, or PDB cannot express them.
    """
    path = Path(path)
    models = [backbone] if isinstance(backbone, Backbone) else list(backbone)
    kind = format_of(path)
    if kind is None:
        raise ValueError(
            f"{path.name} has no known suffix; expected one of {', '.join(FORMATS)}, each also "
            "with .gz."
        )
    _check_models(models)
    b = np.broadcast_to(np.asarray(b_factor, dtype=np.float64), (len(models[0]),))
    content = _pdb(models, b).encode() if kind == "pdb" else _cif(models, b, binary=kind == "bcif")
    if path.suffix.lower() == ".gz":
        content = gzip.compress(content, mtime=0)
    write_bytes(path, content)
    return path


def _check_models(models: list[Backbone]) -> None:
    if not models or not len(models[0]):
        raise ValueError("nothing to write, got no residue; expected at least one model with one.")
    first = models[0]
    for number, other in enumerate(models[1:], start=2):
        same = len(other) == len(first) and all(
            (getattr(other, field) == getattr(first, field)).all()
            for field in ("aatype", "residue_index", "insertion_codes", "chain_ids")
        )
        if not same:
            raise ValueError(
                f"model {number} has other residues than model 1, got {len(other)} and "
                f"{len(first)}; expected the same ones. Write them to separate files."
            )


def _beta_carbons(backbone: Backbone) -> np.ndarray:
    """Ideal CB positions, (n, 3)."""
    n, ca, c = torch.from_numpy(backbone.coords[:, :3]).double().unbind(1)
    frames = frames_from_backbone(n, ca, c)
    local = torch.tensor(IDEAL_CB, dtype=torch.float64)
    return (ca + quat_to_rotmat(frames["rot"]) @ local).numpy()


def _atoms(backbone: Backbone) -> Iterator[tuple[int, str, np.ndarray]]:
    """Residue, name and position of every atom to write."""
    beta = _beta_carbons(backbone)
    for i, residue in enumerate(backbone.coords):
        yield from ((i, name, residue[k]) for k, name in enumerate(BACKBONE_ATOMS))
        if backbone.aatype[i] != _GLYCINE:
            yield i, "CB", beta[i]


def _pdb(models: list[Backbone], b: np.ndarray) -> str:
    """Text of a PDB file."""
    lines = [f"TITLE     {TRAJECTORY}"] if len(models) > 1 else []
    for number, model in enumerate(models, start=1):
        if len(models) > 1:
            lines.append(f"MODEL     {number:4d}")
        lines += _pdb_model(model, b)
        if len(models) > 1:
            lines.append("ENDMDL")
    return "\n".join([*lines, "END", ""])


def _pdb_model(model: Backbone, b: np.ndarray) -> Iterator[str]:
    """Atom and chain-end records of one model."""
    _check_pdb(model)
    serial = 0
    last = -1
    for i, name, position in _atoms(model):
        if last >= 0 and model.chain_ids[i] != model.chain_ids[last]:
            serial += 1
            yield _ter(model, last, serial)
        serial += 1
        last = i
        x, y, z = (float(value) for value in position)
        yield (
            f"ATOM  {serial:5d}  {name:<3s} {_residue(model, i)}   "
            f"{x:8.3f}{y:8.3f}{z:8.3f}{1.0:6.2f}{b[i]:6.2f}          {name[0]:>2s}"
        )
    yield _ter(model, last, serial + 1)


def _ter(model: Backbone, i: int, serial: int) -> str:
    return f"TER   {serial:5d}      {_residue(model, i)}"


def _residue(model: Backbone, i: int) -> str:
    """Residue name, chain, number and insertion code in their columns."""
    name, number = THREE_LETTER[model.aatype[i]], model.residue_index[i]
    return f"{name:>3s} {model.chain_ids[i] or ' ':1s}{number:4d}{model.insertion_codes[i] or ' '}"


def _check_pdb(model: Backbone) -> None:
    """Raise ValueError where the columns of PDB are too narrow."""
    long_id = next((c for c in model.chain_ids.tolist() if len(c) > 1), None)
    number = int(model.residue_index.max()), int(model.residue_index.min())
    reason = None
    if long_id is not None:
        reason = f"chain {long_id!r} has more than one letter"
    elif number[0] > 9999 or number[1] < -999:
        reason = f"residue numbers reach {number[0] if number[0] > 9999 else number[1]}"
    elif 6 * len(model) > 99_999:
        reason = f"{len(model)} residues have more than 99999 atoms"
    elif model.coords.max() > 9990 or model.coords.min() < -990:
        reason = f"coordinates reach {np.abs(model.coords).max():.0f} Å"
    elif not np.isfinite(model.coords).all():
        reason = "a coordinate is no number"
    if reason:
        raise ValueError(f"PDB cannot hold this backbone: {reason}. Write mmCIF (.cif) instead.")


def _cif(models: list[Backbone], b: np.ndarray, *, binary: bool) -> bytes:
    """Content of an mmCIF or BinaryCIF file."""
    import biotite.structure.io.pdbx as pdbx

    file: Any = pdbx.BinaryCIFFile() if binary else pdbx.CIFFile()
    pdbx.set_structure(file, _atom_stack(models, b), data_block=models[0].name)
    if len(models) > 1:
        category = pdbx.BinaryCIFCategory if binary else pdbx.CIFCategory
        file.block["struct"] = category({"title": TRAJECTORY})
    content: Any = io.BytesIO() if binary else io.StringIO()
    file.write(content)
    found = content.getvalue()
    return found if binary else found.encode()


def _atom_stack(models: list[Backbone], b: np.ndarray) -> Any:
    """All models as a biotite stack of atoms."""
    import biotite.structure as struc

    first = models[0]
    residue, names = zip(*((i, name) for i, name, _ in _atoms(first)), strict=True)
    index = np.array(residue)
    stack = struc.AtomArrayStack(len(models), len(index))
    stack.coord = np.array([[xyz for _, _, xyz in _atoms(m)] for m in models], dtype=np.float32)
    stack.atom_name = np.array(names)
    stack.element = np.array([name[0] for name in names])
    stack.res_name = np.array(THREE_LETTER)[first.aatype][index]
    stack.chain_id = first.chain_ids[index]
    stack.res_id = first.residue_index[index]
    stack.ins_code = first.insertion_codes[index]
    stack.set_annotation("b_factor", b[index])
    stack.set_annotation("occupancy", np.ones(len(index)))
    return stack
