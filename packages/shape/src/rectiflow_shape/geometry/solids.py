"""Simple solids, and what tests do to them."""

from __future__ import annotations

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh

_FACES = [
    *((0, 2, 1), (1, 2, 3), (4, 5, 6), (5, 7, 6), (0, 1, 4), (1, 5, 4)),
    *((2, 6, 3), (3, 6, 7), (0, 4, 2), (2, 4, 6), (1, 3, 5), (3, 7, 5)),
]


def box(low=(-1, -1, -1), high=(1, 1, 1)) -> Mesh:
    """Return a box of 12 faces that look outward."""
    corners = [[(low, high)[c >> k & 1][k] for k in range(3)] for c in range(8)]
    return Mesh(np.array(corners, float), np.array(_FACES))


def turned(mesh: Mesh, which=slice(None)) -> Mesh:
    """Return a mesh with some faces wound the other way."""
    faces = mesh.faces.copy()
    faces[which] = faces[which][:, ::-1]
    return Mesh(mesh.vertices, faces)


def joined(*meshes: Mesh) -> Mesh:
    """Return meshes as one, their vertices kept apart."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces))


def ball(n: int = 12, radius: float = 1.0) -> Mesh:
    """Return a sphere of n rings of 2n faces."""
    angles = np.linspace(0, np.pi, n + 1)[1:-1]
    around = np.arange(2 * n) * np.pi / n
    ring = np.stack([np.cos(around), 0 * around, np.sin(around)], 1)
    rows = [np.sin(a) * ring + [0, np.cos(a), 0] for a in angles]
    vertices = np.concatenate([[[0, 1, 0]], *rows, [[0, -1, 0]]])
    k, m = np.arange(2 * n), 2 * n
    following = (k + 1) % m
    faces = [np.stack([0 * k, 1 + following, 1 + k], 1)]
    for row in range(n - 2):
        a, b = 1 + row * m + k, 1 + row * m + following
        faces += [np.stack([a, b, a + m], 1), np.stack([b, b + m, a + m], 1)]
    last, end = 1 + (n - 2) * m, len(vertices) - 1
    faces.append(np.stack([last + k, last + following, 0 * k + end], 1))
    return Mesh(radius * vertices, np.concatenate(faces))
