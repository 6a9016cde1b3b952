"""What a file's syntax says, and polygons cut into triangles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Parsed:
    """Vertices ``(v, 3)`` and their normals, triangles ``(f, 3)``, and what else the file says."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    notes: tuple[str, ...] = ()
    normals: Float[np.ndarray, "v 3"] | None = None


def triangulate(
    vertices: Float[np.ndarray, "v 3"], polygons: Sequence[Sequence[int]]
) -> Int[np.ndarray, "f 3"]:
    """Cut polygons into triangles by their ears: a fan would leave those that are not convex.

    A polygon with a repeated index or one that crosses itself is cut as far as it has ears, the
    rest as a fan.
    """
    triangles = np.array([each for each in polygons if len(each) == 3], np.int64).reshape(-1, 3)
    quads = np.array([each for each in polygons if len(each) == 4], np.int64).reshape(-1, 4)
    others = [ear for each in polygons if len(each) > 4 for ear in _ears(vertices, list(each))]
    return np.concatenate(
        [triangles, _halves(vertices, quads), np.array(others, np.int64).reshape(-1, 3)]
    )


def _halves(
    vertices: Float[np.ndarray, "v 3"], quads: Int[np.ndarray, "q 4"]
) -> Int[np.ndarray, "f 3"]:
    """Cut four-sided polygons along their first diagonal, or if it is outside the other.

    Most files have nothing else, so they are cut all at once.
    """
    with np.errstate(invalid="ignore"):
        a, b, c, d = np.moveaxis(vertices[quads], 1, 0)
        is_inside = (np.cross(b - a, c - a) * np.cross(c - a, d - a)).sum(1) > 0
    rows = np.where(is_inside[:, None], quads, np.roll(quads, -1, axis=1))
    return np.concatenate([rows[:, [0, 1, 2]], rows[:, [0, 2, 3]]])


def _ears(vertices: np.ndarray, polygon: list[int]) -> list[tuple[int, int, int]]:
    points = vertices[polygon]
    if not np.isfinite(points).all():
        return _fan(polygon)
    following = np.roll(points, -1, axis=0)
    normal = np.cross(points - points[0], following - points[0]).sum(0)
    axis = int(np.abs(normal).argmax())
    flat = np.delete(points, axis, axis=1)
    if (normal[axis] > 0) == (axis == 1):  # so that the polygon turns left in the plane
        flat = flat[:, ::-1]
    ring, made = list(range(len(polygon))), []
    while len(ring) > 3:
        for k in range(len(ring)):
            ear = ring[k - 1], ring[k], ring[(k + 1) % len(ring)]
            if _is_ear(flat, ear, [r for r in ring if r not in ear]):
                made.append(ear)
                del ring[k]
                break
        else:
            break
    return [(polygon[a], polygon[b], polygon[c]) for a, b, c in made] + _fan(
        [polygon[r] for r in ring]
    )


def _fan(polygon: list[int]) -> list[tuple[int, int, int]]:
    return [(polygon[0], polygon[k], polygon[k + 1]) for k in range(1, len(polygon) - 1)]


def _is_ear(flat: np.ndarray, ear: tuple[int, int, int], others: list[int]) -> bool:
    """Say whether a corner turns left and no other corner lies in its triangle."""
    a, b, c = (flat[k] for k in ear)

    def left(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[0] - p[0]) * (r[..., 1] - p[1]) - (q[1] - p[1]) * (r[..., 0] - p[0])

    if left(a, b, c) <= 0:
        return False
    rest = flat[others]
    return not ((left(a, b, rest) >= 0) & (left(b, c, rest) >= 0) & (left(c, a, rest) >= 0)).any()
