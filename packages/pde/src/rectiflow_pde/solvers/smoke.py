r"""Smoke that rises in a closed box: a staggered grid, semi-Lagrangian, an exact projection.

.. math:: u_t + (u \cdot \nabla) u = \nu \Delta u - \nabla p + B s e_y, \quad
    \nabla \cdot u = 0, \quad s_t + u \cdot \nabla s = 0

The scheme of the published data (pdearena, which runs PhiFlow) with the pressure by a cosine
transform, which the closed box makes exact: the divergence is round-off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class SmokeState:
    """One moment.

    Attributes
    ----------
    density : ndarray, shape (nx, ny)
        At cell centres.
    u : ndarray, shape (nx + 1, ny)
        Velocity along x at the faces across it; 0 at both walls.
    v : ndarray, shape (nx, ny + 1)
        Likewise along y.
    """

    density: Float[np.ndarray, "nx ny"]
    u: Float[np.ndarray, "nx+1 ny"]
    v: Float[np.ndarray, "nx ny+1"]

    @classmethod
    def at_rest(cls, density: Float[np.ndarray, "nx ny"]) -> SmokeState:
        """Return smoke that does not move."""
        nx, ny = density.shape
        return cls(np.asarray(density, np.float64), np.zeros((nx + 1, ny)), np.zeros((nx, ny + 1)))

    @property
    def centred(self) -> Float[np.ndarray, "nx ny 3"]:
        """Velocity at the centres and density, in the order of the published data."""
        u = (self.u[1:] + self.u[:-1]) / 2
        v = (self.v[:, 1:] + self.v[:, :-1]) / 2
        return np.stack([u, v, self.density], -1)


@dataclass(frozen=True)
class Smoke:
    """The box and its physics.

    Attributes
    ----------
    size : float
        Length of each side.
    buoyancy : float
        ``B``: acceleration along y per density.
    viscosity : float
    step : float
        Time step.

    Raises
    ------
    ValueError
        If a number is impossible.
    """

    size: float = 32.0
    buoyancy: float = 0.5
    viscosity: float = 0.01
    step: float = 1.5

    def __post_init__(self) -> None:
        for name in ("size", "step"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"the {name} must be positive, got {getattr(self, name):g}.")
        if not math.isfinite(self.buoyancy) or not self.viscosity >= 0:
            raise ValueError(f"buoyancy must be finite and viscosity not negative, got {self}.")

    def advance(self, state: SmokeState) -> SmokeState:
        """Take one step: carry, push, diffuse, project."""
        h = self.size / np.array(state.density.shape)
        density = self._carried(state, state.density, (0.5, 0.5), h)
        u = self._carried(state, state.u, (0.0, 0.5), h)
        v = self._carried(state, state.v, (0.5, 0.0), h)
        v[:, 1:-1] += self.step * self.buoyancy * (density[:, 1:] + density[:, :-1]) / 2
        if self.viscosity:
            u += self.step * self.viscosity * _laplacian(u, h, walls=0)
            v += self.step * self.viscosity * _laplacian(v, h, walls=1)
        u[[0, -1]] = 0
        v[:, [0, -1]] = 0
        return SmokeState(density, *project(u, v, h))

    def solve(self, density: Float[np.ndarray, "nx ny"], steps: Sequence[int]) -> list[SmokeState]:
        """Return the states after numbers of steps, from rest."""
        state, found = SmokeState.at_rest(density), []
        for step in range(max(steps) + 1):
            if step in steps:
                found.append(state)
            state = self.advance(state) if step < max(steps) else state
        return found

    def _carried(
        self, state: SmokeState, values: np.ndarray, offset: tuple[float, float], h: np.ndarray
    ) -> np.ndarray:
        """Values where the flow was half a step, then a step ago (midpoint rule)."""
        grid = np.indices(values.shape, dtype=np.float64) + np.reshape(offset, (2, 1, 1))
        middle = grid - self.step / 2 * self._velocity(state, grid) / h[:, None, None]
        source = grid - self.step * self._velocity(state, middle) / h[:, None, None]
        return _sample(values, source - np.reshape(offset, (2, 1, 1)))

    @staticmethod
    def _velocity(state: SmokeState, at: np.ndarray) -> np.ndarray:
        """Velocity at places in units of cells."""
        u = _sample(state.u, at - np.reshape((0.0, 0.5), (2, 1, 1)))
        v = _sample(state.v, at - np.reshape((0.5, 0.0), (2, 1, 1)))
        return np.stack([u, v])


def project(
    u: Float[np.ndarray, "nx+1 ny"], v: Float[np.ndarray, "nx ny+1"], h: Float[np.ndarray, " 2"]
) -> tuple[Float[np.ndarray, "nx+1 ny"], Float[np.ndarray, "nx ny+1"]]:
    """Take away the gradient that makes a flow in a closed box free of divergence."""
    from scipy.fft import dctn, idctn

    transformed = dctn(divergence(u, v, h))
    nx, ny = transformed.shape
    kx = (2 - 2 * np.cos(np.pi * np.arange(nx) / nx)) / h[0] ** 2
    ky = (2 - 2 * np.cos(np.pi * np.arange(ny) / ny)) / h[1] ** 2
    denominator = kx[:, None] + ky
    denominator[0, 0] = 1.0
    transformed[0, 0] = 0.0
    p = idctn(-transformed / denominator)
    u, v = u.copy(), v.copy()
    u[1:-1] -= np.diff(p, axis=0) / h[0]
    v[:, 1:-1] -= np.diff(p, axis=1) / h[1]
    return u, v


def divergence(
    u: Float[np.ndarray, "nx+1 ny"], v: Float[np.ndarray, "nx ny+1"], h: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "nx ny"]:
    """Net flow out of each cell over its volume."""
    return np.diff(u, axis=0) / h[0] + np.diff(v, axis=1) / h[1]


def draw_density(cells: int, generator: torch.Generator) -> Float[np.ndarray, "n n"]:
    """Draw smooth smoke: the size of noise whose waves beyond a third of the box are damped."""
    noise = torch.randn(cells, cells, generator=generator, dtype=torch.float64).numpy()
    k = np.fft.fftfreq(cells, 1 / cells)
    length = np.hypot(k[:, None], k[None, : cells // 2 + 1])
    smooth = np.fft.irfft2(np.fft.rfft2(noise) / (1 + (length / 3) ** 2) ** 3, s=(cells, cells))
    return np.abs(smooth / smooth.std())


def _sample(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values between grid points, bilinear; the nearest beyond the grid."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(values, at, order=1, mode="nearest")


def _laplacian(values: np.ndarray, h: np.ndarray, walls: int) -> np.ndarray:
    """Laplacian of a velocity: 0 at the walls that it faces, and free along the others."""
    found = np.zeros_like(values)
    for axis in (0, 1):
        width = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(values, width, mode="edge")
        found += np.diff(padded, 2, axis=axis) / h[axis] ** 2
    found[(slice(None),) * walls + ([0, -1],)] = 0
    return found
