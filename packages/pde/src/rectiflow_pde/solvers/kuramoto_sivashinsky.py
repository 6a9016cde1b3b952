r"""The Kuramoto-Sivashinsky equation on a circle, by exponential time differencing.

.. math:: u_t + u u_x + u_{xx} + \nu u_{xxxx} = 0

References
----------
Kassam, Trefethen, "Fourth-order time-stepping for stiff PDEs" (SIAM J. Sci. Comput. 2005):
ETDRK4, its coefficients as means over circles in the complex plane.
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

_CIRCLE = 64  # points of the contour means


@dataclass(frozen=True)
class KuramotoSivashinsky:
    """The equation and how it is discretised.

    Attributes
    ----------
    length : float
        Of the circle; below 2 pi every mode decays.
    points : int
        Even. Products are cut at two thirds of the modes.
    step : float
        Time step; with 0.0125 a trajectory is right within 1e-6 until about t = 36, where chaos
        has made round-off as large.
    viscosity : float
        ``nu``.

    Raises
    ------
    ValueError
        If a number is not positive, or ``points`` is odd.
    """

    length: float = 64.0
    points: int = 256
    step: float = 0.0125
    viscosity: float = 1.0

    def __post_init__(self) -> None:
        for name in ("length", "step", "viscosity"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"the {name} must be positive, got {getattr(self, name):g}.")
        if self.points < 8 or self.points % 2:
            raise ValueError(f"points must be even and at least 8, got {self.points}.")

    @property
    def places(self) -> Float[np.ndarray, " n"]:
        """Where the values stand."""
        return self.length * np.arange(self.points) / self.points

    def solve(
        self, u0: Float[np.ndarray, "*b n"], times: Sequence[float]
    ) -> Float[np.ndarray, "f *b n"]:
        """Return the values at times, each a whole number of steps after 0.

        Raises
        ------
        ValueError
            If a time is no whole number of steps, or values grow without bound.
        """
        counts = np.asarray(times, np.float64) / self.step
        if (np.abs(counts - counts.round()) > 1e-6).any() or (np.diff(counts) <= 0).any():
            raise ValueError(
                f"times must increase by whole steps of {self.step:g}, got {list(times)[:5]}."
            )
        wave = 2 * np.pi * np.fft.rfftfreq(self.points, self.length / self.points)
        linear = wave**2 - self.viscosity * wave**4
        h = self.step
        e, half = np.exp(h * linear), np.exp(h * linear / 2)
        q, f1, f2, f3 = _means(h, linear)
        g = -0.5j * wave
        g[np.arange(len(wave)) > self.points // 3] = 0

        def slope(v: np.ndarray) -> np.ndarray:
            return g * np.fft.rfft(np.fft.irfft(v, self.points) ** 2)

        v = np.fft.rfft(np.asarray(u0, np.float64))
        found, now = [], 0
        for count in counts.round().astype(int).tolist():
            for _ in range(count - now):
                n0 = slope(v)
                a = half * v + q * n0
                na = slope(a)
                b = half * v + q * na
                nb = slope(b)
                nc = slope(half * a + q * (2 * nb - n0))
                v = e * v + f1 * n0 + 2 * f2 * (na + nb) + f3 * nc
            now = count
            found.append(np.fft.irfft(v, self.points))
            if not np.isfinite(found[-1]).all():
                raise ValueError(f"values grew without bound by t = {count * h:g}; shorten step.")
        return np.stack(found)

    def draw(self, generator: torch.Generator) -> Float[np.ndarray, " n"]:
        """Draw a start: ten sines of wave numbers 1 to 3, as PDE-Refiner's data."""
        draws = torch.rand(3, 10, generator=generator, dtype=torch.float64).numpy()
        amplitude, phase = draws[0] - 0.5, 2 * np.pi * draws[1]
        number = 1 + np.floor(3 * draws[2])
        angle = 2 * np.pi * np.outer(self.places / self.length, number) + phase
        return (amplitude * np.sin(angle)).sum(1)


def _means(h: float, linear: np.ndarray) -> tuple[np.ndarray, ...]:
    """Coefficients of ETDRK4, whose formulas cancel near 0, as means around a circle."""
    circle = np.exp(1j * np.pi * (np.arange(_CIRCLE) + 0.5) / _CIRCLE)
    z = h * linear[:, None] + circle
    e = np.exp(z)
    found = (
        (np.exp(z / 2) - 1) / z,
        (-4 - z + e * (4 - 3 * z + z**2)) / z**3,
        (2 + z + e * (z - 2)) / z**3,
        (-4 - 3 * z - z**2 + e * (4 - z)) / z**3,
    )
    return tuple(h * each.mean(1).real for each in found)
