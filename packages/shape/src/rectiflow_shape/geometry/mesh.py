"""Triangle meshes as plain arrays, and where they were before they were normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

HALF_EXTENT = 0.95
"""Of a normalised shape along its longest side; what is sampled lies in the box [-1, 1]³."""


@dataclass(frozen=True)
class Mesh:
    """Triangles, y up where it matters, counter-clockwise as seen from outside.

    Parameters
    ----------
    vertices : ndarray, shape (v, 3)
        Positions, kept as float64; finite.
    faces : ndarray, shape (f, 3)
        Rows of ``vertices``, kept as int64.

    Raises
    ------
    ValueError
        If a shape is another, a position is not finite or an index has no vertex: libraries below
        read such an index without a check.
    """

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]

    def __post_init__(self) -> None:
        vertices = np.ascontiguousarray(self.vertices, dtype=np.float64)
        faces = np.ascontiguousarray(self.faces, dtype=np.int64)
        for name, array in (("vertices", vertices), ("faces", faces)):
            if array.ndim != 2 or array.shape[1] != 3:
                raise ValueError(f"{name} must have shape (n, 3), got {array.shape}.")
            object.__setattr__(self, name, array)
        if not np.isfinite(vertices).all():
            raise ValueError("vertices must be finite, got NaN or infinity; drop them first.")
        if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
            raise ValueError(
                f"faces must be indices from 0 to {len(vertices) - 1}, got {faces.min()} to "
                f"{faces.max()}."
            )

    @property
    def triangles(self) -> Float[np.ndarray, "f 3 3"]:
        """Corners of each face."""
        return self.vertices[self.faces]

    @property
    def crosses(self) -> Float[np.ndarray, "f 3"]:
        """Normal of each face, as long as twice its area."""
        a, b, c = np.moveaxis(self.triangles, 1, 0)
        return np.cross(b - a, c - a)

    @property
    def areas(self) -> Float[np.ndarray, " f"]:
        """Area of each face."""
        return np.linalg.norm(self.crosses, axis=1) / 2

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Least and greatest coordinates of the vertices."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])

    @property
    def volume(self) -> float:
        """Signed volume, positive where the faces look outward; of a closed mesh."""
        return float(self.face_volumes.sum())

    @property
    def face_volumes(self) -> Float[np.ndarray, " f"]:
        """Signed volume of the tetrahedron of each face and the middle of the box."""
        a, b, c = np.moveaxis(self.triangles - self.bounds.mean(0), 1, 0)
        return (a * np.cross(b, c)).sum(1) / 6

    def of_faces(self, faces: np.ndarray) -> Mesh:
        """Return the mesh of some faces, an index, a mask or rows, without unused vertices."""
        rows = faces if faces.ndim == 2 else self.faces[faces]
        used, index = np.unique(rows, return_inverse=True)
        return Mesh(self.vertices[used], index.reshape(-1, 3))


@dataclass(frozen=True)
class Placement:
    """Where a normalised mesh was: ``original = normalised * scale + centre``."""

    centre: tuple[float, float, float]
    scale: float

    def restore(self, mesh: Mesh) -> Mesh:
        """Bring a normalised mesh back."""
        return Mesh(mesh.vertices * self.scale + np.array(self.centre), mesh.faces)

    def apply(self, mesh: Mesh) -> Mesh:
        """Bring a mesh from the original place to the normalised one."""
        return Mesh((mesh.vertices - np.array(self.centre)) / self.scale, mesh.faces)


def normalise(mesh: Mesh, half_extent: float = HALF_EXTENT) -> tuple[Mesh, Placement]:
    """Move the middle of the bounding box to the origin and scale its longest side.

    Parameters
    ----------
    mesh : Mesh
        Anywhere, of any size.
    half_extent : float
        Half of the longest side afterwards.

    Raises
    ------
    ValueError
        If it has no extent.
    """
    low, high = mesh.bounds if len(mesh.vertices) else np.zeros((2, 3))
    half = float((high - low).max()) / 2
    if not half > 0:
        raise ValueError("the mesh has no extent, got all vertices in one point; expected faces.")
    placement = Placement(tuple(((low + high) / 2).tolist()), half / half_extent)
    return placement.apply(mesh), placement
