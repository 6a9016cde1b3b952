"""Mesh files read whole, in their own units, with y up, repaired, and what was said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from rectiflow.storage.reading import read_bounded

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.repair import RepairReport, repair
from rectiflow_shape.io.binary import parse_ply, parse_stl
from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.gltf import parse_gltf
from rectiflow_shape.io.polygons import Parsed
from rectiflow_shape.io.text import parse_obj, parse_off

Axis = Literal["x", "y", "z"]

LARGEST = 10_000_000
"""Faces of a mesh: more are refused."""

_PARSERS: dict[str, Callable[[bytes, Path], Parsed]] = {
    ".glb": parse_gltf,
    ".gltf": parse_gltf,
    ".obj": parse_obj,
    ".off": parse_off,
    ".ply": parse_ply,
    ".stl": parse_stl,
}
SUFFIXES = frozenset(_PARSERS)
"""What mesh files end in."""

TO_Y_UP = {
    "x": np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
    "y": np.eye(3),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}
"""Rotations that bring an axis up; none mirrors."""

_LFS = b"version https:" + b"//git-lfs"  # joined: no host, but the head of a pointer file


def parse_mesh(path: Path) -> Parsed:
    """Read what a mesh file says, faces or none; raises as :func:`read_mesh` does."""
    suffix = path.suffix.lower()
    if suffix not in _PARSERS:
        raise MeshFileError(
            path,
            f"its name ends in {suffix or 'nothing'}",
            f"one of {', '.join(sorted(SUFFIXES))}",
            "Export it as GLB, OBJ, PLY, STL or OFF.",
        )
    content = read_bounded(path)
    if content.startswith(_LFS):
        raise MeshFileError(
            path,
            "it is a Git LFS pointer, not the mesh itself",
            "the file that it points to",
            "Fetch it with: git lfs pull.",
        )
    return _PARSERS[suffix](content, path)


def read_mesh(path: str | Path, *, up: Axis | None = None) -> tuple[Mesh, RepairReport]:
    """Read GLB, glTF, OBJ, PLY, STL or OFF and repair it.

    All meshes of the file are taken, each where its nodes put it; polygons are cut into triangles,
    colours, textures and normals are left out. Nothing is scaled or moved.

    Parameters
    ----------
    path : str or Path
        The file; its name says the format.
    up : {"x", "y", "z"}, optional
        Which of the file's axes is up; turned to y. glTF is y up by its standard, the others do
        not say: they are taken as y up, and the report says so.

    Returns
    -------
    mesh : Mesh
        float64, wound outward as far as that has a meaning.
    report : RepairReport
        What was done, and what the mesh is like.

    Raises
    ------
    StorageError
        When the machine cannot read it.
    MeshFileError
        When it is no such file, is cut short, needs what is not supported, or has no face.
    """
    path = Path(path)
    parsed = parse_mesh(path)
    if not len(parsed.faces):
        raise MeshFileError(
            path,
            f"it has no faces, {len(parsed.vertices)} points",
            "triangles or polygons",
            "Point clouds and empty files have no surface; export a mesh.",
        )
    if len(parsed.faces) > LARGEST:
        raise MeshFileError(
            path, f"it has {len(parsed.faces)} faces", f"at most {LARGEST}", "Decimate it first."
        )
    try:
        mesh, report = repair(parsed.vertices, parsed.faces)
    except ValueError as error:
        raise MeshFileError(path, str(error), "a surface", "Export it again.") from error
    notes = [*parsed.notes]
    if up is not None:
        notes.append(f"{up} is up, as was told")
        mesh = Mesh(mesh.vertices @ TO_Y_UP[up].T, mesh.faces)
    elif parse_gltf is not _PARSERS[path.suffix.lower()]:
        notes.append(
            f"{path.suffix[1:].upper()} says neither which axis is up nor its unit; taken as y up"
        )
    return mesh, replace(report, notes=tuple(notes))
