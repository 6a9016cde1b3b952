"""Which meshes a folder has, and what is known of each."""

from __future__ import annotations

from pathlib import Path

from rectiflow.storage.preparation import METADATA
from rectiflow.storage.reading import read_rows
from rectiflow.storage.splits import SPLITS

from rectiflow_shape.io import SUFFIXES

Entry = dict[str, str]
"""``source``, ``name``, ``class``, ``caption`` and ``split``; the last may be empty."""

_SPLITS = {"val": "valid", "validation": "valid", "": ""} | {name: name for name in SPLITS}


def entries_of(folder: Path | str) -> list[Entry]:
    """List the meshes of a folder in an order that repeats.

    With ``metadata.csv`` those that it names in the column ``file``, with ``class``, ``caption``
    and ``split`` where it has them. Without, all of the folder and of those in it: the class of a
    mesh is the folder that it is in.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        When it has no mesh, or a split is unknown.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}; expected meshes. Check the path.")
    if (root / METADATA).is_file():
        found = [_listed(root, row) for _, row in read_rows(root / METADATA, ("file",))]
    else:
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        found = [
            {"source": str(path), "name": path.stem, "class": kind, "caption": "", "split": ""}
            for path in paths
            for kind in (path.parent.name if path.parent != root else "shape",)
        ]
    if not found:
        raise ValueError(
            f"{root} has no mesh, got no file that ends in {', '.join(sorted(SUFFIXES))}; expected "
            "some."
        )
    return found


def _listed(root: Path, row: dict[str, str]) -> Entry:
    split = row.get("split", "") or ""
    if split not in _SPLITS:
        raise ValueError(f"unknown split {split!r} of {row['file']}; known: {', '.join(SPLITS)}.")
    return {
        "source": str(root / row["file"]),
        "name": row.get("name") or Path(row["file"]).stem,
        "class": row.get("class") or "shape",
        "caption": row.get("caption") or "",
        "split": _SPLITS[split],
    }
