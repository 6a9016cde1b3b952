"""Flows on a regular grid of points: from any mesh, and back onto any points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from rectiflow_pde.mesh import Mesh

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Raster:
    """Points in the middle of equal cells that fill a rectangle.

    Attributes
    ----------
    cells : tuple of int
        Along x and y.
    origin, lengths : tuple of float
        Lower left corner and sides in metres.
    """

    cells: tuple[int, int] = (96, 24)
    origin: tuple[float, float] = (0.0, 0.0)
    lengths: tuple[float, float] = (1.6, 0.41)

    def __post_init__(self) -> None:
        for name in ("cells", "origin", "lengths"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def points(self) -> Float[np.ndarray, "g 2"]:
        """The points in metres, y fastest."""
        axes = [
            low + (np.arange(n) + 0.5) / n * length
            for n, low, length in zip(self.cells, self.origin, self.lengths, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def from_mesh(
        self, mesh: Mesh, fields: Float[np.ndarray, "t n k"]
    ) -> Float[np.ndarray, "t x y k"]:
        """Interpolate linearly in the triangles; a point in none has the value of the next node.

        So the velocity inside of an obstacle is zero, as it is on its boundary.
        """
        places = self.points
        nodes = np.repeat(cKDTree(mesh.points).query(places)[1][:, None], 3, 1)
        weights = np.tile([1.0, 0.0, 0.0], (len(places), 1))
        where, triangle, inside = located(mesh, places)
        nodes[where], weights[where] = mesh.triangles[triangle], inside
        values = sum(fields[:, nodes[:, i]] * weights[:, i, None] for i in range(3))
        return np.asarray(values, np.float32).reshape(len(fields), *self.cells, -1)

    def to_points(
        self, grid: Float[np.ndarray, "t x y k"], places: Float[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "t n k"]:
        """Interpolate by cubic convolution; beyond the outermost points their values go on.

        References
        ----------
        Keys, "Cubic convolution interpolation for digital image processing" (IEEE Trans. ASSP
        1981).
        """
        axes = []
        for i, n in enumerate(self.cells):
            at = (places[:, i] - self.origin[i]) / self.lengths[i] * n - 0.5
            first = np.floor(np.clip(at, 0, n - 1)).astype(int)
            share = np.clip(at, 0, n - 1) - first
            index = np.clip(first[:, None] + np.arange(-1, 3), 0, n - 1)
            axes.append((index, _cubic(share[:, None] - np.arange(-1, 3))))
        (ix, wx), (iy, wy) = axes
        total = np.zeros((len(grid), len(places), grid.shape[-1]))
        for a in range(4):
            for b in range(4):
                total += grid[:, ix[:, a], iy[:, b]] * (wx[:, a] * wy[:, b])[:, None]
        return total.astype(np.float32)


def located(
    mesh: Mesh, places: Float[np.ndarray, "q 2"]
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, "k 3"]]:
    """Find the triangles that places lie in.

    Returns
    -------
    where, triangle : ndarray, shape (k,)
        Numbers of the places that lie in one, and of the triangle.
    weights : ndarray, shape (k, 3)
        Of its corners.
    """
    corners = mesh.points[mesh.triangles]
    middle = corners.mean(1)
    reach = np.sqrt(((corners - middle[:, None]) ** 2).sum(-1)).max(1)
    # Candidates: from the triangle's side, places no further from its middle than its corners.
    near = cKDTree(places).query_ball_point(middle, reach * (1 + 1e-9), return_sorted=False)
    counts = np.array([len(each) for each in near])
    triangle = np.repeat(np.arange(len(near)), counts)
    where = np.concatenate([np.asarray(each, int) for each in near]) if counts.any() else triangle
    a, b, c = np.moveaxis(corners[triangle], 1, 0)
    offset = places[where] - a
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    area = ux * vy - uy * vx
    second = (offset[:, 0] * vy - offset[:, 1] * vx) / area
    third = (offset[:, 1] * ux - offset[:, 0] * uy) / area
    weights = np.stack([1 - second - third, second, third], 1)
    inside = weights.min(1) >= -1e-9
    where, first = np.unique(where[inside], return_index=True)
    return where, triangle[inside][first], weights[inside][first]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
