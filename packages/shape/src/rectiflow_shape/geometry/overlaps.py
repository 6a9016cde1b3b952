"""Faces cut where others pass through them, so that each piece is inside or outside as a whole.

Only for measuring: the pieces are a soup that covers the faces within rounding, not a mesh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Point = list[float]
Polygon = list[Point]

NEAR = 1e-9
"""Lengths below this, in a mesh of size 2, are rounding."""

_PAIRS = 1 << 22  # of boxes that are compared at once


def box_pairs(mesh: Mesh) -> Int[np.ndarray, "p 2"]:
    """Return pairs of faces whose boxes meet, without those that share an edge."""
    triangles = mesh.triangles
    low, high = triangles.min(1) - NEAR, triangles.max(1) + NEAR
    axis = int(np.ptp(triangles.mean(1), axis=0).argmax())
    order = np.argsort(low[:, axis], kind="stable")
    low, high = low[order], high[order]
    ends = np.searchsorted(low[:, axis], high[:, axis], side="right")
    counts = ends - np.arange(len(low)) - 1
    stops = np.searchsorted(np.cumsum(counts), np.arange(0, counts.sum() + _PAIRS, _PAIRS), "right")
    others = [k for k in range(3) if k != axis]
    found = [np.empty((0, 2), np.int64)]
    for start, stop in zip([0, *stops[:-1]], [*stops[:-1], len(low)], strict=True):
        part = counts[start:stop]
        i = np.repeat(np.arange(start, stop), part)
        j = i + 1 + np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        for k in others:
            kept = (low[i, k] <= high[j, k]) & (low[j, k] <= high[i, k])
            i, j = i[kept], j[kept]
        found.append(np.stack([order[i], order[j]], 1))
    pairs = np.concatenate(found)
    shared = (mesh.faces[pairs[:, 0], :, None] == mesh.faces[pairs[:, 1], None]).sum((1, 2))
    return pairs[shared < 2]


def crossings(
    mesh: Mesh, pairs: Int[np.ndarray, "p 2"]
) -> tuple[Int[np.ndarray, " c"], Float[np.ndarray, "c 3"], Float[np.ndarray, "c 2 3"]]:
    """Return where faces pass through others: the face, the other's normal, and the segment.

    Faces in one plane do not pass through each other; their neighbours do.
    """
    normals = mesh.crosses / np.linalg.norm(mesh.crosses, axis=1, keepdims=True)
    corners = mesh.triangles
    i, j = pairs.T
    off_i = ((corners[i] - corners[j, :1]) * normals[j, None]).sum(2)
    off_j = ((corners[j] - corners[i, :1]) * normals[i, None]).sum(2)
    line = np.cross(normals[i], normals[j])
    length = np.linalg.norm(line, axis=1)
    kept = (length > 1e-7) & _meets(off_i) & _meets(off_j)
    i, j, line = i[kept], j[kept], line[kept] / length[kept, None]
    ends_i = _interval(corners[i], off_i[kept], line)
    ends_j = _interval(corners[j], off_j[kept], line)
    low = np.maximum(ends_i[0], ends_j[0])
    high = np.minimum(ends_i[1], ends_j[1])
    real = high - low > 1e3 * NEAR
    i, j, line, low, high = i[real], j[real], line[real], low[real], high[real]
    base = ends_i[2][real]
    segment = base[:, None] + np.stack([low, high], 1)[..., None] * line[:, None]
    return np.concatenate([i, j]), normals[np.concatenate([j, i])], np.tile(segment, (2, 1, 1))


def _meets(off: np.ndarray) -> np.ndarray:
    return (off.min(1) <= NEAR) & (off.max(1) >= -NEAR)


def _interval(
    corners: np.ndarray, off: np.ndarray, line: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ends along a line of what a plane cuts from triangles, and the line's origin.

    The origin is the point of the line nearest to the world's: the same for both triangles.
    """
    along = (corners * line[:, None]).sum(2)
    low = np.full(len(line), np.inf)
    high = np.full(len(line), -np.inf)
    point = np.zeros((len(line), 3))
    for a in range(3):
        b = (a + 1) % 3
        across = off[:, a] * off[:, b] < 0
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(across, off[:, a] / (off[:, a] - off[:, b]), 0.0)
        on = np.abs(off[:, a]) <= NEAR
        place = np.where(on, along[:, a], along[:, a] + share * (along[:, b] - along[:, a]))
        counts = on | across
        low = np.where(counts, np.minimum(low, place), low)
        high = np.where(counts, np.maximum(high, place), high)
        share = np.where(on, 0.0, share)[:, None]
        here = corners[:, a] + share * (corners[:, b] - corners[:, a])
        point = np.where(counts[:, None], here, point)
    return low, high, point - (point * line).sum(1)[:, None] * line


def pieces(mesh: Mesh) -> tuple[Float[np.ndarray, "t 3 3"], Int[np.ndarray, " t"]]:
    """Cut the faces of a mesh of size 2 at the origin; return triangles and the face of each."""
    face, normal, segment = crossings(mesh, box_pairs(mesh))
    corners = mesh.triangles
    cut = np.unique(face)
    if not len(cut):
        return corners, np.arange(len(corners))
    whole = np.setdiff1d(np.arange(len(corners)), cut)
    made: list[Polygon] = []
    of: list[int] = []
    order = np.argsort(face, kind="stable")
    starts = np.searchsorted(face[order], cut)
    cutters = list(zip(normal.tolist(), segment.tolist(), strict=True))
    for row, group in zip(cut.tolist(), np.split(order, starts[1:]), strict=True):
        parts = [corners[row].tolist()]
        for k in group.tolist():
            parts = [piece for part in parts for piece in _split(part, *cutters[k])]
        for part in parts:
            fans = [[part[0], part[n], part[n + 1]] for n in range(1, len(part) - 1)]
            made += fans
            of += [row] * len(fans)
    triangles = np.concatenate([corners[whole], np.array(made).reshape(-1, 3, 3)])
    return triangles, np.concatenate([whole, np.array(of, np.int64)])


def _split(part: Polygon, normal: Point, segment: list[Point]) -> list[Polygon]:
    """Cut a convex polygon by the plane of a segment, if the segment passes through it.

    In plain numbers: polygons have a handful of corners, for which arrays are slow.
    """
    (nx, ny, nz), (start, end) = normal, segment
    base = nx * start[0] + ny * start[1] + nz * start[2]
    off = [nx * x + ny * y + nz * z - base for x, y, z in part]
    if min(off) > -NEAR or max(off) < NEAR:
        return [part]
    crossed: list[Point] = []
    above: Polygon = []
    below: Polygon = []
    for a, (point, here) in enumerate(zip(part, off, strict=True)):
        b = (a + 1) % len(part)
        if here >= -NEAR:
            above.append(point)
        if here <= NEAR:
            below.append(point)
        if abs(here) <= NEAR:
            crossed.append(point)
        elif abs(off[b]) > NEAR and here * off[b] < 0:
            share = here / (here - off[b])
            between = [p + share * (q - p) for p, q in zip(point, part[b], strict=True)]
            for each in (crossed, above, below):
                each.append(between)
    along = [q - p for p, q in zip(start, end, strict=True)]
    size = sum(d * d for d in along)
    places = [sum((x - s) * d for x, s, d in zip(p, start, along, strict=True)) for p in crossed]
    if len(crossed) < 2 or max(places) <= NEAR * size or min(places) >= (1 - NEAR) * size:
        return [part]
    return [side for side in (above, below) if len(side) > 2]
