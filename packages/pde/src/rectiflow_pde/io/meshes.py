"""Meshes of any format that meshio knows, by one reader that nothing can end."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_bounded

from rectiflow_pde.io.boundary import infer_kinds, kinds_by_name, node_types
from rectiflow_pde.io.cells import Cleaned, RawMesh, clean
from rectiflow_pde.io.gmsh import is_msh4, read_msh4
from rectiflow_pde.mesh import Mesh, NodeType, boundary_edges

if TYPE_CHECKING:
    from collections.abc import Callable

_METRES = 100.0  # a flow past an obstacle is hardly larger


@dataclass(frozen=True)
class Boundaries:
    """How the boundaries of a file get their kinds.

    Attributes
    ----------
    given : mapping of str to NodeType
        By the names or numbers that the file has.
    infer : bool
        The rest by geometry: left in, right out, inner lines obstacles, all else wall.
    """

    given: Mapping[str, NodeType] = field(default_factory=dict)
    infer: bool = False


@dataclass(frozen=True, eq=False)
class MeshFile:
    """A mesh and what its file says beside it.

    Attributes
    ----------
    mesh : Mesh
    cleaned : Cleaned
        Which nodes and cells of the file its own are of.
    fields : dict of str to ndarray
        Values at the mesh's nodes, ``(n,)`` or ``(n, d)``, as named in the file.
    averaged : frozenset of str
        Fields that the file has per cell.
    notes : list of str
        What was done, a clause each.
    """

    mesh: Mesh
    cleaned: Cleaned
    fields: dict[str, np.ndarray]
    averaged: frozenset[str]
    notes: list[str]


def read_mesh(
    path: str | Path, *, scale: float | None = None, boundaries: Boundaries | None = None
) -> MeshFile:
    """Read a mesh and the fields in its file.

    Parameters
    ----------
    path : str or Path
        Gmsh 2.2 or 4.1, VTU, VTK, XDMF or another format of meshio's.
    scale : float, optional
        Metres per unit of length. Absent, metres are assumed, and a mesh of more than 100 of
        them is refused.
    boundaries : Boundaries
        How boundaries without a known name get their kinds.

    Raises
    ------
    FileError
        If it cannot be read as a sound mesh in the plane, or a boundary has no known kind.
    """
    path = Path(path)
    raw, point_data, cell_data = _raw(path)
    cleaned = clean(raw, 1.0 if scale is None else scale)
    extent = np.ptp(cleaned.points, axis=0)
    if scale is None and extent.max() > _METRES:
        raise FileError(
            path,
            f"it measures {extent[0]:.4g} x {extent[1]:.4g} and does not say in which unit",
            f"metres, at most {_METRES:g}",
            "Name the unit of length, such as --length-unit mm.",
        )
    mesh, told = with_kinds(path, cleaned, boundaries)
    fields = {name: values[cleaned.source] for name, values in point_data.items()}
    for name, values in cell_data.items():
        if name not in fields:
            fields[name] = _to_nodes(mesh, values[cleaned.parent])
    averaged = frozenset(cell_data) - frozenset(point_data)
    return MeshFile(mesh, cleaned, fields, averaged, [*cleaned.notes, *told])


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Return what a library reads; whatever it raises, or exits with, becomes a FileError."""
    said = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return read()
    except FileError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            missing = Path(str(error.filename)).name
            raise FileError(
                path, f"it needs {missing}, which is not there", missing, "Put it beside the file."
            ) from error
        known = " ".join(said.getvalue().split()) or f"{type(error).__name__}: {error}"
        raise FileError(
            path,
            f"it cannot be read: cut short, damaged or of another format ({known[:160]})",
            "a whole mesh of a format that meshio knows",
            "Write it again, or as VTU.",
        ) from error


def _raw(path: Path) -> tuple[RawMesh, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Nodes, cells and fields of a file; those of cells for all surface cells in a row."""
    import meshio

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path.")
    if path.suffix.lower() == ".msh":
        content = read_bounded(path)
        if is_msh4(content[:64]):
            return read_msh4(path, content), {}, {}
    found = guarded(path, lambda: meshio.read(path))
    names = {(int(dim), int(tag)): name for name, (tag, dim) in found.field_data.items()}
    physical = found.cell_data.get("gmsh:physical")
    cells, tags, surface = [], [], []
    for i, block in enumerate(found.cells):
        cells.append((block.type, np.asarray(block.data)))
        groups = np.zeros(len(block.data), np.int64) if physical is None else physical[i]
        dim = 1 if block.type.startswith("line") else 2
        known = {g: names.get((dim, g), str(g) if g else "") for g in set(groups.tolist())}
        tags.append(np.array([known[g] for g in groups.tolist()], dtype=object))
        if block.type.startswith(("triangle", "quad")):
            surface.append(i)
    cell_data = {
        name: np.concatenate([np.asarray(parts[i]) for i in surface])
        for name, parts in found.cell_data.items()
        if not name.startswith("gmsh:") and surface
    }
    point_data = {k: np.asarray(v) for k, v in found.point_data.items() if ":" not in k}
    return RawMesh(path, np.asarray(found.points), cells, tags), point_data, cell_data


def with_kinds(
    path: Path, cleaned: Cleaned, boundaries: Boundaries | None
) -> tuple[Mesh, list[str]]:
    """Give boundaries their kinds, and say how.

    Raises
    ------
    FileError
        If some have none.
    """
    boundaries = boundaries or Boundaries()
    notes: list[str] = []
    edges = boundary_edges(cleaned.triangles)
    kinds, strange = kinds_by_name(edges, cleaned.edge_tags, boundaries.given)
    lacking = kinds < 0
    if strange:
        notes.append(
            f"boundaries are named {', '.join(strange)}, which says nothing of their kinds"
        )
    if lacking.any():
        if not boundaries.infer:
            named = f"names {', '.join(strange)}" if strange else "names none"
            raise FileError(
                path,
                f"it does not say what {int(lacking.sum())} of {len(edges)} boundary edges are "
                f"(it {named})",
                "inlet, outlet, wall and cylinder",
                "Have them inferred from geometry (--infer-boundaries), or name them "
                "(--boundaries 5=inlet,6=outlet,7=wall,8=cylinder).",
            )
        kinds = np.where(lacking, infer_kinds(cleaned.points, edges), kinds)
        words = [
            f"{int((kinds[lacking] == kind).sum())} {name}"
            for name, kind in zip(("inlet", "outlet", "wall", "cylinder"), NodeType, strict=False)
            for kind in [NodeType(kind + 1)]
        ]
        notes.append(f"kinds of boundary edges inferred from geometry: {', '.join(words)}")
    types = node_types(len(cleaned.points), edges, kinds)
    return Mesh(cleaned.points, cleaned.triangles, types), notes


def _to_nodes(mesh: Mesh, values: np.ndarray) -> np.ndarray:
    """Mean of the cells around each node, weighted by their areas."""
    columns = values.reshape(len(values), -1)
    weights = np.repeat(mesh.areas, 3)
    nodes = mesh.triangles.ravel()
    total = np.bincount(nodes, weights, mesh.n_nodes)
    found = [
        np.bincount(nodes, weights * np.repeat(column, 3), mesh.n_nodes) / total
        for column in columns.T
    ]
    return np.stack(found, -1).reshape(mesh.n_nodes, *values.shape[1:])
