"""Backbones packed in one npz file: coordinates end to end, with offsets."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rectiflow_protein.io.backbone import Backbone
from rectiflow_protein.io.errors import StructureError

_REQUIRED = ("coords", "offsets", "sequence")


@dataclass(frozen=True)
class Archive:
    """Chains of an archive, the cluster of each, and the file each came from."""

    backbones: list[Backbone]
    clusters: list[str] | None
    sources: list[str]

    def __len__(self) -> int:
        return len(self.backbones)


def read_archive(path: str | Path) -> Archive:
    """Read an npz archive of backbones.

    Required arrays: ``coords`` (residues, 4, 3), ångström, N, CA, C, O; ``offsets`` (chains + 1,);
    ``sequence`` (chains,) one-letter. Read if present: ``cluster``, ``chain_id``,
    ``first_residue`` (number of the first residue, perhaps with an insertion code),
    ``source_path`` and ``name``. Pickled arrays are refused.

    Parameters
    ----------
    path : str or Path
        The ``.npz`` file.

    Returns
    -------
    Archive
        One backbone per chain, residues numbered on from ``first_residue``.

    Raises
    ------
    StructureError
        If the file is no such archive.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise StructureError(
            path, f"it cannot be read ({error})", "an npz file", "Was the copy cut short?"
        ) from error
    _check(path, arrays)
    offsets = arrays["offsets"]
    n = len(offsets) - 1
    stem = path.stem
    sources = arrays.get("source_path", np.full(n, path.name)).astype(str).tolist()
    chains = arrays.get("chain_id", np.full(n, "A")).astype(str).tolist()
    names = arrays.get("name", np.array([f"{stem}_{i:05d}" for i in range(n)])).astype(str).tolist()
    firsts = arrays.get("first_residue", np.full(n, "1")).astype(str).tolist()
    backbones = [
        Backbone.from_coords(
            arrays["coords"][offsets[i] : offsets[i + 1]],
            sequence=str(arrays["sequence"][i]),
            first_residue=_number(firsts[i]),
            chain_id=chains[i] or "A",
            name=names[i],
        )
        for i in range(n)
    ]
    clusters = arrays["cluster"].astype(str).tolist() if "cluster" in arrays else None
    return Archive(backbones, clusters, sources)


def _number(text: str) -> int:
    """Residue number without its insertion code; 1 where there is none."""
    match = re.match(r"\s*(-?\d+)", text)
    return int(match[1]) if match else 1


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raise StructureError unless the arrays agree with one another."""
    form = f"arrays {', '.join(_REQUIRED)}"
    missing = [key for key in _REQUIRED if key not in arrays]
    if missing:
        raise StructureError(
            path,
            f"it has no {', '.join(missing)} among {sorted(arrays)}",
            form,
            "See read_archive for the form.",
        )
    coords, offsets, sequences = (arrays[key] for key in _REQUIRED)
    lengths = np.array([len(str(s)) for s in sequences])
    fits = offsets.ndim == 1 and len(offsets) == len(lengths) + 1
    fits = fits and coords.shape == (offsets[-1], 4, 3) and (np.diff(offsets) == lengths).all()
    if not fits:
        raise StructureError(
            path,
            f"coords {coords.shape}, {len(offsets)} offsets and {len(lengths)} sequences disagree",
            form,
            "Offsets must run from 0 to the number of residues, one step per sequence.",
        )
