"""Which shapes there are: a folder of mesh files with or without a table, or one packed archive."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_rows

from rectiflow_shape.geometry import Mesh, RepairReport, repair
from rectiflow_shape.io import SUFFIXES, read_mesh
from rectiflow_shape.io.read import Axis

TABLE = "metadata.csv"
"""Table of a folder: ``file`` or ``name``, and where known ``class``, ``caption`` and ``split``."""

PACKED = "meshes.npz"
"""Many meshes in one file: ``vertices``, ``faces``, their offsets, and ``names``."""

_SPLITS = {"val": "valid", "validation": "valid", "dev": "valid", "training": "train"}


@dataclass(frozen=True)
class Entry:
    """A shape that is asked for.

    Attributes
    ----------
    file : str
        Relative to the folder.
    index : int
        Of the mesh in a packed file, -1 if the file is the mesh.
    name, category, caption, split : str
        Empty if not told.
    line : int
        Of the table, 0 without one.
    """

    file: str
    index: int
    name: str
    category: str
    caption: str
    split: str
    line: int = 0


def list_shapes(folder: Path) -> list[Entry]:
    """Return the shapes of a folder, in an order that repeats.

    With ``metadata.csv`` they are its rows: mesh files, or with ``meshes.npz`` the meshes in it.
    Without one they are all mesh files below the folder; the name of the folder that a file is in
    is its class, the words of its name are its caption.

    Raises
    ------
    FileNotFoundError
        If there are none.
    FileError
        If the table lacks a column.
    """
    table, packed = folder / TABLE, folder / PACKED
    if table.is_file():
        rows = read_rows(table, ("name",) if packed.is_file() else ("file",))
        places = (
            {name: k for k, name in enumerate(_packed(packed)["names"].tolist())}
            if (packed.is_file())
            else {}
        )
        found = [_of_row(row, line, places) for line, row in rows]
    else:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        found = [_of_path(path.relative_to(folder)) for path in paths if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no meshes, got no file that ends in {', '.join(sorted(SUFFIXES))}; "
            f"expected some, or a {TABLE} that names them."
        )
    return found


def _of_row(row: dict[str, str], line: int, places: dict[str, int]) -> Entry:
    name, file = row.get("name", ""), row.get("file", "")
    split = row.get("split", "").strip().lower()
    return Entry(
        file=PACKED if places else file,
        index=places.get(name, len(places)) if places else -1,
        name=name or Path(file).stem,
        category=row.get("class", row.get("label", "")),
        caption=row.get("caption", ""),
        split=_SPLITS.get(split, split),
        line=line,
    )


def _of_path(path: Path) -> Entry:
    category = path.parent.name
    words = " ".join(re.findall(r"[^\W_]+", path.stem)).lower()
    caption = f"a {category}: {words}" if category else words
    return Entry(path.as_posix(), -1, path.stem, category, caption, "")


def read_entry(entry: Entry, folder: Path, up: Axis | None) -> tuple[Mesh, RepairReport]:
    """Read the mesh of an entry.

    Raises
    ------
    FileError
        When it cannot be used.
    """
    path = folder / entry.file
    if entry.index < 0:
        if not entry.file or not path.is_file():
            raise FileError(path, "there is no such file", "a mesh file", "Correct the table.")
        return read_mesh(path, up=up)
    packed = _packed(path)
    if entry.index >= len(packed["names"]):
        raise FileError(path, f"it has no mesh {entry.name!r}", "one for each row", "Correct it.")
    ends = (packed[f"{what}_offsets"][entry.index :][:2] for what in ("vertex", "face"))
    (v, w), (f, g) = (map(int, each) for each in ends)
    try:
        return repair(packed["vertices"][v:w], packed["faces"][f:g])
    except ValueError as error:
        raise FileError(path, str(error), "a surface", "Correct the file.") from error


@lru_cache(maxsize=1)
def _packed(path: Path) -> dict[str, np.ndarray]:
    names = ("vertices", "faces", "vertex_offsets", "face_offsets", "names")
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in names}
    except (KeyError, ValueError, OSError) as error:
        raise FileError(
            path, f"it cannot be read ({error})", f"arrays {', '.join(names)}", "Make it again."
        ) from error
