"""What a scanner saw of an object: points with normals, of a part of its surface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectiflow_shape.geometry import Mesh, surface_points

if TYPE_CHECKING:
    from jaxtyping import Float

POINTS = 20_000
"""Drawn on the surface of a mesh, and the most that are kept of a scan."""

LEAST = 100
"""Points below which nothing can be said of an object."""

_NEIGHBOURS = 12
_BEHIND = 0.3  # cosine: a point is inside if it lies behind its nearest points, not beside them
_JUMP = 0.05  # between neighbours of a depth map, as a share of the depth: an edge, not a surface


@dataclass(frozen=True)
class Scan:
    """Points of a part of a surface.

    Parameters
    ----------
    points, normals : ndarray, shape (n, 3)
        y up; normals of unit length, looking out of the object.

    Raises
    ------
    ValueError
        If a shape is another, a number is not finite, a normal has no length or there are fewer
        than :data:`LEAST` points.
    """

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]

    def __post_init__(self) -> None:
        for name in ("points", "normals"):
            array = np.asarray(getattr(self, name), np.float64)
            if array.ndim != 2 or array.shape != (len(self.points), 3):
                raise ValueError(f"{name} of a scan must have shape (n, 3), got {array.shape}.")
            bad = int((~np.isfinite(array).all(1)).sum())
            if bad:
                raise ValueError(
                    f"{name} of a scan must be finite, got {bad} rows of {len(array)} with NaN or "
                    "infinity; drop them first."
                )
            object.__setattr__(self, name, array)
        if len(self.points) < LEAST:
            raise ValueError(f"a scan needs at least {LEAST} points, got {len(self.points)}.")
        length = np.linalg.norm(self.normals, axis=1, keepdims=True)
        if not (length > 0).all():
            raise ValueError("normals of a scan must have a length, got zeros.")
        object.__setattr__(self, "normals", self.normals / length)

    @classmethod
    def of_mesh(cls, mesh: Mesh, generator: torch.Generator, n: int = POINTS) -> Scan:
        """Draw points of a part of a surface whose faces look outward."""
        points, normals = surface_points(mesh, n, generator)
        return cls(points.numpy(), normals.numpy())

    @classmethod
    def of_points(cls, points: Float[np.ndarray, "n 3"], eye: Float[np.ndarray, " 3"]) -> Scan:
        """Find the normals of points that were all seen from one place, each by its neighbours."""
        from scipy.spatial import cKDTree

        points = np.asarray(points, np.float64)
        if len(points) < LEAST or not np.isfinite(points).all():
            return cls(points, points)  # which tells what is wrong
        near = points[cKDTree(points).query(points, _NEIGHBOURS)[1]]
        off = near - near.mean(1, keepdims=True)
        normals = np.linalg.eigh(off.swapaxes(1, 2) @ off)[1][..., 0]
        away = (normals * (np.asarray(eye, float) - points)).sum(1, keepdims=True) < 0
        return cls(points, np.where(away, -normals, normals))

    @classmethod
    def of_depth(
        cls,
        depth: Float[np.ndarray, "h w"],
        intrinsics: Float[np.ndarray, "3 3"],
        pose: Float[np.ndarray, "4 4"] | None = None,
    ) -> Scan:
        """Turn a depth map into points, with normals by differences between neighbours.

        Parameters
        ----------
        depth : ndarray, shape (h, w)
            Along the view, in the unit of the object; 0, NaN or infinity where nothing was seen.
        intrinsics : ndarray, shape (3, 3)
            Of a pinhole camera, in pixels; the middle of the first pixel is (0, 0).
        pose : ndarray, shape (4, 4), optional
            From the camera (x right, y down, z forward) to the world with y up. If absent the
            camera is level in the origin and looks along -z.
        """
        depth, k = np.asarray(depth, np.float64), np.asarray(intrinsics, np.float64)
        if depth.ndim != 2 or k.shape != (3, 3) or not (k[0, 0] > 0 and k[1, 1] > 0):
            raise ValueError(
                f"a depth map is (h, w) with intrinsics (3, 3) of positive focal lengths, got "
                f"{depth.shape} and {k.tolist()}."
            )
        seen = np.isfinite(depth) & (depth > 0)
        z = np.where(seen, depth, np.nan)
        rays = np.linalg.inv(k) @ np.stack(
            [*np.meshgrid(*map(np.arange, depth.shape[::-1])), np.ones_like(depth)]
        ).reshape(3, -1)
        grid = (rays * z.reshape(-1)).T.reshape(*depth.shape, 3)
        across, down = grid[1:-1, 2:] - grid[1:-1, :-2], grid[2:, 1:-1] - grid[:-2, 1:-1]
        points = grid[1:-1, 1:-1]
        normals = np.cross(down, across)  # towards the camera: y is down
        jump = np.maximum(abs(across[..., 2]), abs(down[..., 2])) > 2 * _JUMP * points[..., 2]
        fine = np.isfinite(normals).all(-1) & ~jump & (np.linalg.norm(normals, axis=-1) > 0)
        turn = np.diag([1.0, -1, -1, 1]) if pose is None else np.asarray(pose, np.float64)
        if turn.shape != (4, 4) or not np.allclose(
            turn[:3, :3] @ turn[:3, :3].T, np.eye(3), atol=1e-3
        ):
            raise ValueError("a pose is a rotation and a shift (4, 4), got another matrix.")
        return cls(points[fine] @ turn[:3, :3].T + turn[:3, 3], normals[fine] @ turn[:3, :3].T)

    @property
    def end(self) -> tuple[Float[np.ndarray, " 3"], float]:
        """From which side the object was seen, and how far along it the scan reaches back.

        The side is the mean normal, which of a closed surface cut by a plane is the plane's own.
        """
        mean = self.normals.mean(0)
        side = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return side, float(np.quantile(self.points @ side, 0.01))

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Least and greatest coordinates."""
        return np.stack([self.points.min(0), self.points.max(0)])

    def moved(self, turn: Float[np.ndarray, "3 3"], about: Float[np.ndarray, " 3"]) -> Scan:
        """Return the scan turned or mirrored about a point."""
        return Scan((self.points - about) @ turn.T + about, self.normals @ turn.T)

    def some(self, chosen: np.ndarray) -> Scan:
        """Return the chosen points."""
        return Scan(self.points[chosen], self.normals[chosen])


class ScanDistance:
    r"""The signed distance of a scan, negative behind its points, at points near it.

    Near the surface the implicit moving least squares
    :math:`\sum_i w_i(x)\, n_i \cdot (x - p_i) / \sum_i w_i(x)`, farther off the distance to the
    nearest point, negative behind it and positive before and beside it.

    References
    ----------
    Kolluri, "Provably good moving least squares" (SODA 2005).
    """

    def __init__(self, scan: Scan) -> None:
        from scipy.spatial import cKDTree

        self.scan, self.tree = scan, cKDTree(scan.points)
        some = scan.points[:: max(1, len(scan.points) // 1000)]
        self.width = 2 * float(np.median(self.tree.query(some, 4)[0][:, -1])) + 1e-12

    def __call__(self, points: Float[Tensor, "q 3"]) -> Float[Tensor, " q"]:
        """Return the distance of points, of their dtype."""
        asked = points.detach().cpu().double().numpy()
        far, near = self.tree.query(asked, _NEIGHBOURS)
        weight = np.exp(-((far**2 - far[:, :1] ** 2) / self.width**2).clip(max=60))
        along = (self.scan.normals[near] * (asked[:, None] - self.scan.points[near])).sum(-1)
        plane = (weight * along).sum(1) / weight.sum(1)
        # Off the rim of a face all nearest points are of one plane, whose side says nothing.
        sign = np.where(plane < -_BEHIND * far[:, 0], -1, 1)
        value = np.where(far[:, 0] > self.width, sign * far[:, 0], plane)
        return torch.from_numpy(value).to(points)
