"""Kriging of readings in space and time: a baseline by itself, and of what a flow leaves over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

_MOST = 200
"""Readings that the likelihood of a kernel is judged by."""


@dataclass(frozen=True)
class Kernel:
    r"""A Matérn kernel of smoothness 3/2 that may travel with the flow.

    .. math:: d^2 = \frac{|\Delta r - c\, \Delta t\, e_x|^2}{\ell^2} + \frac{\Delta t^2}{\tau^2}

    With ``speed`` 0 it is the usual product of space and time; with the speed of the vortices a
    reading tells of the place to which what was read has moved (Taylor's hypothesis).

    Parameters
    ----------
    length : float
        Metres.
    time : float
        Seconds.
    speed : float, default 0
        m/s along x.
    """

    length: float
    time: float
    speed: float = 0.0

    def __call__(
        self, a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "m 3"]
    ) -> Float[np.ndarray, "n m"]:
        """Return correlations between points ``(x, y, t)``."""
        from scipy.spatial.distance import cdist

        d = np.sqrt(3) * cdist(self._scaled(a), self._scaled(b))
        return (1 + d) * np.exp(-d)

    def _scaled(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        x, y, t = points.T
        moved = (x - self.speed * t) / self.length
        return np.stack([moved, y / self.length, t / self.time], -1)


def fitted_kernel(
    points: Float[np.ndarray, "m 3"],
    values: Float[np.ndarray, " m"],
    noise: float,
    *,
    lengths: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    times: Sequence[float] = (0.1, 0.2, 0.4, 1.6),
    speeds: Sequence[float] = (0.0,),
) -> Kernel:
    """Return the kernel under which readings are the most likely, of a grid of kernels.

    Parameters
    ----------
    points : ndarray, shape (m, 3)
        x, y (m) and t (s) of each reading.
    values : ndarray
        Without their mean.
    noise : float
        Standard deviation of readings.
    lengths, times, speeds : sequence of float
    """
    from scipy.linalg import solve_triangular

    step = -(-len(values) // _MOST)
    at, read = points[::step], values[::step]
    variance = max(float(np.var(values)), 1e-12)
    best, chosen = -np.inf, None
    for told in product(lengths, times, speeds):
        kernel = Kernel(*told)
        cov = variance * kernel(at, at) + (noise**2 + 1e-8 * variance) * np.eye(len(at))
        root = np.linalg.cholesky(cov)
        white = solve_triangular(root, read, lower=True, check_finite=False)
        likelihood = -0.5 * white @ white - np.log(np.diag(root)).sum()
        if likelihood > best:
            best, chosen = likelihood, kernel
    assert chosen is not None
    return chosen


def kriged(
    points: Float[np.ndarray, "m 3"],
    values: Float[np.ndarray, " m"],
    noise: float,
    kernel: Kernel,
    places: Float[np.ndarray, "n 2"],
    times: Float[np.ndarray, " f"],
) -> Float[np.ndarray, "f n"]:
    """Return the mean of the Gaussian process given readings, frame by frame."""
    variance = max(float(np.var(values)), 1e-12)
    cov = variance * kernel(points, points) + (noise**2 + 1e-8 * variance) * np.eye(len(points))
    weights = variance * np.linalg.solve(cov, values)
    made = []
    for t in times:
        at = np.column_stack([places, np.full(len(places), t)])
        made.append(kernel(at, points) @ weights)
    return np.stack(made)
