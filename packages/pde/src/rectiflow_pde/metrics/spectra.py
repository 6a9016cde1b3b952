"""Energy by wave number."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def energy_spectrum(*components: Float[np.ndarray, "*f n n"]) -> Float[np.ndarray, "*f k"]:
    """Return ``E(k)``: the sum over ``k <= |q| < k + 1`` of half the squared amplitudes.

    The transform is divided by the number of points and the shell is summed, not averaged, so
    that the sum of E is the mean of half the square: of the energy density.

    Parameters
    ----------
    *components : ndarray, shape (..., n, n)
        Of a velocity, on an even periodic grid.
    """
    return _spectrum(components, (-2, -1))


def energy_spectrum_1d(*components: Float[np.ndarray, "*f n"]) -> Float[np.ndarray, "*f k"]:
    """Return the spectrum along the last axis alone, as :func:`energy_spectrum`."""
    return _spectrum(components, (-1,))


def _spectrum(components: tuple[np.ndarray, ...], axes: tuple[int, ...]) -> np.ndarray:
    shape = [components[0].shape[axis] for axis in axes]
    size = int(np.prod(shape))
    waves_of = [np.fft.fftn(part, axes=axes) / size for part in components]
    density = np.sum(np.square(np.abs(waves_of)), axis=0) / 2
    waves = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    # A length just below a whole number by rounding belongs to the shell of that number.
    length = np.sqrt(np.sum(np.square(waves), axis=0))
    shell = np.floor(length + 1e-9).astype(int).ravel()
    flat = density.reshape(-1, size)
    found = np.stack([np.bincount(shell, row) for row in flat])
    return found.reshape(*density.shape[: density.ndim - len(axes)], -1)


def log_ratio(
    pred: Float[np.ndarray, " k"], true: Float[np.ndarray, " k"], bands: int = 4
) -> Float[np.ndarray, " bands"]:
    """Return ``log(E_pred / E_true)`` over bands of wave numbers of equal width in their logarithm.

    Zero wave number is left out; a band without energy in either has NaN.
    """
    k = np.arange(1, len(true))
    edges = np.geomspace(1, len(true), bands + 1)
    found = []
    for low, high in itertools.pairwise(edges):
        inside = (k >= low) & (k < high)
        a, b = pred[1:][inside].sum(), true[1:][inside].sum()
        found.append(np.log(a / b) if a > 0 and b > 0 else np.nan)
    return np.array(found)
