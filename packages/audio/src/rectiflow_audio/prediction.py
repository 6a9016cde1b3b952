"""Lost samples from their neighbours: linear prediction, and least squares under a spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.inverse import STFT, conjugate_gradients
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

ORDER = 32
"""Of the prediction: formants, and the harmonics of a voice, at 16 kHz."""

_BLOCK = 1024  # samples over which one set of coefficients holds
_LOADING = 1e-9  # of the energy, added to the autocorrelation


def linear_prediction(
    wave: Float[np.ndarray, " n"],
    known: Bool[np.ndarray, " n"],
    *,
    order: int = ORDER,
    rounds: int = 3,
) -> Float[np.ndarray, " n"]:
    """Fill what is not known so that the whole is predicted best from its past.

    Coefficients and samples in turn, block by block around the damage, each a least-squares
    problem.

    References
    ----------
    Janssen, Veldhuis & Vries, "Adaptive interpolation of discrete-time signals that can be modeled
    as autoregressive processes" (IEEE Trans. ASSP 1986).
    """
    from scipy.linalg import solve_toeplitz, solveh_banded

    found = np.where(known, wave, 0.0).astype(np.float64)
    for start, stop in _stretches(known, len(wave)):
        piece, holes = found[start:stop].copy(), ~known[start:stop]
        if holes.all():
            continue
        for _ in range(rounds):
            lags = np.correlate(piece, piece, "full")[len(piece) - 1 :][: order + 1]
            if not lags[0] > 0:
                break
            lags[0] *= 1 + _LOADING
            filt = np.concatenate([[1.0], -solve_toeplitz(lags[:-1], lags[1:])])
            # Errors of prediction are a band matrix times the samples; their squares, a Toeplitz
            # one but for the ends, and what is lost of it a band matrix again.
            square = np.correlate(filt, filt, "full")
            kept = np.convolve(np.where(holes, 0.0, piece), square)[order : order + len(piece)]
            index = np.flatnonzero(holes)
            bands = np.zeros((min(order + 1, len(index)), len(index)))
            for k, band in enumerate(bands):
                apart = index[k:] - index[: len(index) - k]
                band[: len(apart)] = np.where(
                    apart <= order, square[order + np.minimum(apart, order)], 0.0
                )
            bands[0] *= 1 + 1e-9
            piece[index] = solveh_banded(bands, -kept[index], lower=True)
        found[start:stop] = np.where(holes, piece, found[start:stop])
    return np.where(known, wave, found)


def _stretches(known: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return stretches with a block of context around what is lost in each."""
    lost = np.flatnonzero(~known)
    if not len(lost):
        return []
    breaks = np.flatnonzero(np.diff(lost) > _BLOCK) + 1
    spans = []
    for group in np.split(lost, breaks):
        first = int(group[0])
        while first <= group[-1]:
            last = min(int(group[-1]) + 1, first + 2 * _BLOCK)
            gap = _end_of_hole(known, last, count)
            spans.append((max(0, first - _BLOCK), min(count, gap + _BLOCK)))
            later = group[group >= gap]
            first = int(later[0]) if len(later) else int(group[-1]) + 1
    return spans


def _end_of_hole(known: np.ndarray, at: int, count: int) -> int:
    while at < count and not known[at]:
        at += 1
    return at


def smoothest(
    wave: Float[Tensor, " n"],
    known: Bool[Tensor, " n"],
    power: Float[Tensor, "frames bins"],
    transform: STFT,
    *,
    drawn: Tensor | None = None,
    steps: int = 60,
) -> Float[Tensor, " n"]:
    r"""Fill what is not known to the least ``sum |T x|² / power``: the mean under that spectrum.

    Linear prediction is the case of an all-pole power that is the same in all frames. With a draw g
    of the spectrum the result is a draw too: ``g`` plus the fill of ``x - g``.

    Parameters
    ----------
    wave : Tensor
        A first fill where it is not known.
    known : Tensor
    power : Tensor
        Positive, what is expected of ``|T x|²``.
    transform : STFT
        T, an isometry.
    drawn : Tensor, optional
        From :func:`draw`.
    steps : int
        Of conjugate gradients.
    """
    weight = (1 / power)[..., None]
    hole = (~known).to(wave)

    def energy(x: Tensor) -> Tensor:
        return transform.adjoint(transform(x) * weight)

    target = wave if drawn is None else wave - drawn
    fixed = torch.where(known, target, 0.0)[None]

    def apply(x: Tensor) -> Tensor:
        return hole * energy(hole * x)

    start = hole * target  # what is there already is kept in directions that hardly count
    fill = conjugate_gradients(
        apply, -hole * energy(fixed), start=start[None], steps=steps, tolerance=1e-5
    )[0]
    return torch.where(known, wave, fill + (0 if drawn is None else drawn))


def draw(
    power: Float[Tensor, "frames bins"], transform: STFT, generator: torch.Generator
) -> Float[Tensor, " n"]:
    """Draw a sound of a spectrum: noise in the transform, scaled and put together.

    A power of one row holds for all frames.
    """
    bins = transform.size // 2 + 1
    noise = torch.randn(transform.frames, bins, 2, generator=generator).to(power)
    # The transform has size / hop times as many numbers as the sound, which share its energy.
    level = power[..., None] / 2 * (transform.size / transform.hop)
    return transform.adjoint((noise * level.sqrt())[None])[0]
