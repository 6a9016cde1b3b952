"""Flows on a regular grid of points: from any mesh, and back onto any points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.mesh import Mesh
from rectiflow_pde.metrics.interpolation import interpolation

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
        from scipy.spatial import cKDTree

        places = self.points
        found = interpolation(mesh, places)
        nodes, weights = found.nodes.copy(), found.weights.copy()
        nodes[found.outside] = cKDTree(mesh.points).query(places[found.outside])[1][:, None]
        weights[found.outside] = 1 / 3
        values = sum(fields[:, nodes[:, i]] * weights[:, i, None] for i in range(3))
        return np.asarray(values, np.float32).reshape(len(fields), *self.cells, -1)

    def stencil(self, places: Float[np.ndarray, "n 2"]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return, for each axis, four points around each place and their weights, ``(n, 4)``."""
        axes = []
        for i, n in enumerate(self.cells):
            at = (places[:, i] - self.origin[i]) / self.lengths[i] * n - 0.5
            first = np.floor(np.clip(at, 0, n - 1)).astype(int)
            share = np.clip(at, 0, n - 1) - first
            index = np.clip(first[:, None] + np.arange(-1, 3), 0, n - 1)
            axes.append((index, _cubic(share[:, None] - np.arange(-1, 3))))
        return axes

    def to_points(
        self, grid: Float[np.ndarray, "t x y k"], places: Float[np.ndarray, "n 2"]
    ) -> Float[np.ndarray, "t n k"]:
        """Interpolate by cubic convolution; beyond the outermost points their values go on.

        References
        ----------
        Keys, "Cubic convolution interpolation for digital image processing" (IEEE Trans. ASSP
        1981).
        """
        (ix, wx), (iy, wy) = self.stencil(places)
        total = np.zeros((len(grid), len(places), grid.shape[-1]))
        for a in range(4):
            for b in range(4):
                total += grid[:, ix[:, a], iy[:, b]] * (wx[:, a] * wy[:, b])[:, None]
        return total.astype(np.float32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
