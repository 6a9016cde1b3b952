"""Which faces belong together: edges, parts, patches, and what lies within what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

WELD = 1e-8
"""Vertices nearer than this share of the longest side are one: float64 noise of node transforms."""

_PROBES = 24  # points of a part that must all lie inside another for it to be nested


def half_edges(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, "3f 2"]:
    """Return the directed edges: those from corner 0 of all faces first, then 1 and 2."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def edge_uses(
    faces: Int[np.ndarray, "f 3"],
) -> tuple[Int[np.ndarray, " e"], Int[np.ndarray, " 3f"], Int[np.ndarray, " 3f"]]:
    """Return faces at each edge, the edge of each half-edge, and its direction (1 or -1)."""
    ends = half_edges(faces)
    keys = ends.min(1) * (int(faces.max(initial=0)) + 1) + ends.max(1)
    _, edge, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts, edge, np.where(ends[:, 0] < ends[:, 1], 1, -1)


def weld(
    vertices: Float[np.ndarray, "v 3"], tolerance: float = WELD
) -> tuple[Float[np.ndarray, "w 3"], Int[np.ndarray, " v"]]:
    """Join vertices that are equal or near, and return where each went."""
    welded, index = np.unique(vertices, axis=0, return_inverse=True)
    index = index.reshape(-1)
    if not tolerance or len(welded) < 2:
        return welded, index
    from scipy.spatial import cKDTree

    near = np.ptp(welded, axis=0).max() * tolerance
    pairs = cKDTree(welded - welded.mean(0)).query_pairs(near, output_type="ndarray")
    if not len(pairs):
        return welded, index
    _, label = _connected(len(welded), pairs)
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    return welded[first], label.reshape(-1)[index]


def components(faces: Int[np.ndarray, "f 3"]) -> Int[np.ndarray, " f"]:
    """Return the part of each face, numbered from 0: faces that share an edge are of one part."""
    if not len(faces):
        return np.zeros(0, np.int64)
    _, edge, _ = edge_uses(faces)
    order = np.argsort(edge, kind="stable")
    same = edge[order][1:] == edge[order][:-1]
    of = order % len(faces)
    return _connected(len(faces), np.stack([of[:-1][same], of[1:][same]], 1))[1]


def _connected(count: int, pairs: Int[np.ndarray, "p 2"]) -> tuple[int, Int[np.ndarray, " n"]]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), bool), pairs.T), (count, count))
    number, label = connected_components(graph, directed=False)
    return number, label.astype(np.int64)


def is_closed(
    faces: Int[np.ndarray, "f 3"], parts: Int[np.ndarray, " f"]
) -> Bool[np.ndarray, " p"]:
    """Say for each part whether all of its edges have two of its faces."""
    rows = np.repeat(parts[None], 3, 0).reshape(-1)
    ends = half_edges(faces)
    keys = np.stack([ends.min(1), ends.max(1), rows], 1)
    _, edge, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    closed = np.ones(parts.max(initial=-1) + 1, bool)
    closed[rows[counts[edge.reshape(-1)] != 2]] = False
    return closed


def nesting(mesh: Mesh, parts: Int[np.ndarray, " f"]) -> list[list[int]]:
    """Return for each closed part the closed parts that it lies wholly within, the largest first.

    A part is within another if its box is, and points spread over its vertices and faces are, by
    the winding number of the other. Parts that are not closed hold nothing and lie in nothing.
    """
    import igl

    closed = is_closed(mesh.faces, parts)
    number = len(closed)
    within: list[list[int]] = [[] for _ in range(number)]
    boxes = np.array([mesh.of_faces(parts == k).bounds for k in range(number)])
    sizes = (boxes[:, 1] - boxes[:, 0]).prod(1)
    fits = (boxes[:, None, 0] > boxes[None, :, 0]).all(2) & (
        boxes[:, None, 1] < boxes[None, :, 1]
    ).all(2)
    fits &= closed[:, None] & closed[None]
    for outer in np.argsort(-sizes):
        candidates = np.flatnonzero(fits[:, outer])
        if not len(candidates):
            continue
        solid, there, _ = unit(mesh.of_faces(parts == outer))
        for inner in candidates:
            middles = mesh.triangles[parts == inner].mean(1)
            corners = mesh.vertices[np.unique(mesh.faces[parts == inner])]
            points = np.concatenate([corners, middles])
            points = points[:: max(1, len(points) // _PROBES)]
            turns = igl.winding_number(solid.vertices, solid.faces, there(points))
            if (np.abs(turns) > 0.5).all():
                within[inner].append(int(outer))
    return within


@dataclass(frozen=True)
class Unit:
    """Brings points to where a mesh has size 2 and its middle at the origin."""

    centre: Float[np.ndarray, " 3"]
    scale: float

    def __call__(self, points: Float[np.ndarray, "q 3"]) -> Float[np.ndarray, "q 3"]:
        """Bring points there."""
        return (points - self.centre) / self.scale

    def back(self, points: Float[np.ndarray, "q 3"]) -> Float[np.ndarray, "q 3"]:
        """Bring points back."""
        return points * self.scale + self.centre


def unit(mesh: Mesh) -> tuple[Mesh, Unit, float]:
    """Return a mesh at the origin, what brings points there, and its scale.

    libigl's winding numbers are float32 inside, so they are asked for there only.
    """
    low, high = mesh.bounds
    there = Unit((low + high) / 2, float((high - low).max()) / 2 or 1.0)
    return Mesh(there(mesh.vertices), mesh.faces), there, there.scale
