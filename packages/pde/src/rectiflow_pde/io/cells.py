"""From the nodes and cells of a file to a sound mesh: what was done is said.

Unused nodes are dropped, nodes at the same place merged, quadrilaterals split, second-order cells
reduced to their corners, cells without area dropped, clockwise ones turned round. Folded cells,
hanging nodes and separate pieces have no right reading and are refused: taken as they are, they
make false walls or count an area twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.faults import FileError

from rectiflow_pde.mesh import boundary_edges, signed_areas

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float, Int

SAME_PLACE = 1e-8
"""Nodes nearer than this part of the mesh's size are one node."""

_CORNERS = {
    **{"triangle": 3, "triangle6": 3, "triangle7": 3},
    **{"quad": 4, "quad8": 4, "quad9": 4},
}
_SECOND_ORDER = ("triangle6", "triangle7", "quad8", "quad9")
_EDGES = ("line", "line3")


@dataclass(frozen=True, eq=False)
class RawMesh:
    """Nodes and cells as a file has them.

    Attributes
    ----------
    path : Path
    points : ndarray, shape (k, 2) or (k, 3)
    cells : sequence of (str, ndarray)
        Kind by meshio's name, and node numbers.
    tags : sequence of ndarray
        Of each entry of ``cells``: text that names each cell's group; empty where it has none.
    """

    path: Path
    points: Float[np.ndarray, "k d"]
    cells: Sequence[tuple[str, Int[np.ndarray, "c j"]]]
    tags: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A sound triangulation, and where its parts come from.

    Attributes
    ----------
    points : ndarray, shape (n, 2)
    triangles : ndarray, shape (m, 3)
        Counter-clockwise.
    source : ndarray, shape (n,)
        Node of the file at each node's place.
    parent : ndarray, shape (m,)
        Number of the surface cell of the file that each triangle is of.
    edge_tags : dict of (int, int) to str
        Names that the file gives to edges, by their nodes in increasing order.
    notes : list of str
        What was done.
    """

    points: Float[np.ndarray, "n 2"]
    triangles: Int[np.ndarray, "m 3"]
    source: Int[np.ndarray, " n"]
    parent: Int[np.ndarray, " m"]
    edge_tags: dict[tuple[int, int], str]
    notes: list[str] = field(default_factory=list)


def clean(raw: RawMesh, scale: float = 1.0) -> Cleaned:
    """Make a sound triangulation of what a file has.

    Parameters
    ----------
    raw : RawMesh
    scale : float, default 1.0
        Metres per unit of length of the file.

    Raises
    ------
    FileError
        If it has no triangles, is not flat, or is folded, hanging or in pieces.
    """
    notes: list[str] = []
    points = _flat(raw) * scale
    triangles, parent = _triangles(raw, points, notes)
    size = float(np.ptp(points[np.unique(triangles)], axis=0).max())
    unused = len(points) - len(np.unique(triangles))
    triangles, same = _merge(points, triangles, size, notes)
    triangles, parent = _without_flat(points, triangles, parent, size, notes)
    used, triangles = np.unique(triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    second = _mid_nodes(raw)
    if unused - second > 0:
        notes.append(f"{unused - second} unused nodes, which no triangle has, are dropped")
    kept = points[used]
    triangles = _turned(raw, kept, triangles, notes)
    _require_conforming(raw, kept, triangles, size)
    _require_one_piece(raw, triangles, len(kept))
    place = np.full(len(points), -1)
    place[used] = np.arange(len(used))
    return Cleaned(kept, triangles, used, parent, _edge_tags(raw, place[same]), notes)


def _flat(raw: RawMesh) -> Float[np.ndarray, "k 2"]:
    """Coordinates in the plane of the cells."""
    points = np.asarray(raw.points, np.float64)
    nodes = [cells.ravel() for kind, cells in raw.cells if kind in _CORNERS]
    if not nodes:
        found = ", ".join(f"{len(cells)} {kind}s" for kind, cells in raw.cells) or "no cells"
        raise FileError(
            raw.path,
            f"it has no triangles, only {found}",
            "triangles or quadrilaterals",
            "In Gmsh, give the surface a physical group as well, or set Mesh.SaveAll=1.",
        )
    used = np.concatenate(nodes)
    if used.min() < 0 or used.max() >= len(points):
        raise FileError(
            raw.path,
            f"its cells name nodes {used.min()} to {used.max()} of {len(points)}",
            f"an index from 0 to {len(points) - 1}",
            "Where cells count from 1 (one-based), subtract 1.",
        )
    if not np.isfinite(points[used]).all():
        raise FileError(raw.path, "coordinates are not finite", "numbers", "Write it again.")
    if points.shape[1] == 2:
        return points
    extent = np.ptp(points[used], axis=0)
    thin = int(extent.argmin())
    if extent[thin] > 1e-6 * extent.max():
        raise FileError(
            raw.path,
            f"it is not flat: it measures {' x '.join(f'{e:.4g}' for e in extent)}",
            "cells in one plane",
            "Write the surface or a slice of it.",
        )
    return np.delete(points, thin, axis=1)


def _triangles(
    raw: RawMesh, points: np.ndarray, notes: list[str]
) -> tuple[Int[np.ndarray, "m 3"], Int[np.ndarray, " m"]]:
    """Triangles of all surface cells, and the number of each one's cell."""
    found, parents, start = [], [], 0
    reduced = quads = 0
    for kind, cells in raw.cells:
        if kind not in _CORNERS:
            continue
        corners = np.asarray(cells, np.int64)[:, : _CORNERS[kind]]
        numbers = np.arange(start, start + len(corners))
        start += len(corners)
        reduced += len(corners) * (kind in _SECOND_ORDER)
        if corners.shape[1] == 3:
            found.append(corners)
            parents.append(numbers)
            continue
        quads += len(corners)
        place = points[corners]
        across = np.linalg.norm(place[:, 0] - place[:, 2], axis=1)
        other = np.linalg.norm(place[:, 1] - place[:, 3], axis=1)
        order = np.where((across <= other)[:, None], [[0, 1, 2, 0, 2, 3]], [[1, 2, 3, 1, 3, 0]])
        found.append(np.take_along_axis(corners, order, 1).reshape(-1, 3))
        parents.append(np.repeat(numbers, 2))
    if reduced:
        notes.append(f"{reduced} second-order cells are reduced to their corners")
    if quads:
        notes.append(f"{quads} quadrilaterals are split into triangles along a diagonal")
    return np.concatenate(found), np.concatenate(parents)


def _mid_nodes(raw: RawMesh) -> int:
    """Nodes that only the middles of second-order cells have."""
    middles, corners = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for kind, cells in raw.cells:
        if kind in _CORNERS:
            corners.append(cells[:, : _CORNERS[kind]].ravel())
            middles.append(cells[:, _CORNERS[kind] :].ravel())
    return len(np.setdiff1d(np.concatenate(middles), np.concatenate(corners)))


def _merge(
    points: np.ndarray, triangles: np.ndarray, size: float, notes: list[str]
) -> tuple[Int[np.ndarray, "m 3"], Int[np.ndarray, " k"]]:
    """Name nodes at the same place by the first of them; also return that name for every node."""
    from scipy.spatial import cKDTree

    used = np.unique(triangles)
    pairs = cKDTree(points[used]).query_pairs(SAME_PLACE * size, output_type="ndarray")
    same = np.arange(len(points))
    for a, b in np.sort(used[pairs], 1)[np.argsort(used[pairs].min(1, initial=0))].tolist():
        same[b] = min(same[a], same[b])
    merged = int((same != np.arange(len(points))).sum())
    if merged:
        notes.append(f"{merged} duplicate nodes, at the same place as others, are merged")
    return same[triangles], same


def _without_flat(
    points: np.ndarray, triangles: np.ndarray, parent: np.ndarray, size: float, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    areas = np.abs(signed_areas(points, triangles))
    flat = areas <= 1e-12 * size**2
    if flat.any():
        notes.append(f"{int(flat.sum())} degenerate triangles of zero area are dropped")
    return triangles[~flat], parent[~flat]


def _turned(
    raw: RawMesh, points: np.ndarray, triangles: np.ndarray, notes: list[str]
) -> Int[np.ndarray, "m 3"]:
    """Turn clockwise triangles round; refuse where they then overlap."""
    clockwise = signed_areas(points, triangles) < 0
    triangles = np.where(clockwise[:, None], triangles[:, ::-1], triangles)
    edges = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    _, counts = np.unique(edges, axis=0, return_counts=True)
    ends = points[boundary_edges(triangles)]
    inside = 0.5 * float((ends[:, 0, 0] * ends[:, 1, 1] - ends[:, 0, 1] * ends[:, 1, 0]).sum())
    total = float(signed_areas(points, triangles).sum())
    if (counts > 1).any() or abs(total - inside) > 1e-6 * total:
        few = min(int(clockwise.sum()), int((~clockwise).sum()))
        raise FileError(
            raw.path,
            f"triangles overlap: {max(few, 1)} inverted or folded over neighbours, their areas "
            f"add up to {total:.6g} m² where the boundary holds {inside:.6g}",
            "each place in one triangle",
            "Mesh it again.",
        )
    if clockwise.any():
        notes.append(f"{int(clockwise.sum())} clockwise triangles are turned round")
    return triangles


def _require_conforming(
    raw: RawMesh, points: np.ndarray, triangles: np.ndarray, size: float
) -> None:
    """Refuse a node in the middle of an edge whose triangle does not have it."""
    from scipy.spatial import cKDTree

    edges = boundary_edges(triangles)
    nodes = np.unique(edges)
    start, end = points[edges[:, 0]], points[edges[:, 1]]
    length = np.linalg.norm(end - start, axis=1)
    near = cKDTree(points[nodes]).query_ball_point((start + end) / 2, 0.5 * length)
    counts = np.array([len(each) for each in near])
    which = np.repeat(np.arange(len(edges)), counts)
    node = nodes[np.concatenate([*near, []]).astype(np.int64)]
    along = (end - start)[which] / length[which, None]
    away = points[node] - start[which]
    distance = np.abs(along[:, 0] * away[:, 1] - along[:, 1] * away[:, 0])
    foreign = (node[:, None] != edges[which]).all(1)
    hanging = np.unique(node[foreign & (distance < 1e-6 * size * 1e-1)])
    if len(hanging):
        x, y = points[hanging[0]]
        raise FileError(
            raw.path,
            f"{len(hanging)} hanging nodes in the middle of an edge, the first at ({x:.4g}, "
            f"{y:.4g})",
            "a conforming mesh, whose neighbours share whole edges",
            "Split the triangles beside them.",
        )


def _require_one_piece(raw: RawMesh, triangles: np.ndarray, n: int) -> None:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    count, labels = connected_components(
        coo_matrix((np.ones(len(edges)), edges.T), (n, n)), directed=False
    )
    if count > 1:
        sizes = np.sort(np.bincount(labels[triangles[:, 0]], minlength=count))[::-1]
        raise FileError(
            raw.path,
            f"it is in {count} pieces that are not connected, of {', '.join(map(str, sizes[:5]))} "
            "triangles",
            "one connected mesh",
            "Write them to files of their own.",
        )


def _edge_tags(raw: RawMesh, place: np.ndarray) -> dict[tuple[int, int], str]:
    """Names of edges by their nodes, where the file has edges with names."""
    found: dict[tuple[int, int], str] = {}
    for (kind, cells), tags in zip(raw.cells, raw.tags, strict=True):
        if kind not in _EDGES:
            continue
        for (a, b), tag in zip(np.sort(place[cells[:, :2]], 1).tolist(), tags, strict=True):
            if tag and a >= 0:
                found[a, b] = str(tag)
    return found
