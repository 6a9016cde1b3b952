"""How long rollouts stay right, how long they think so, and which waves they get wrong."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.metrics.errors import Correlation, correlation
from rectiflow_pde.metrics.spectra import energy_spectrum_1d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float


def correlated(
    pred: Float[np.ndarray, "b f n"], true: Float[np.ndarray, "b f n"], times: Sequence[float]
) -> Correlation:
    """Correlate frames of rollouts with the truth, and average over the rollouts.

    :meth:`~rectiflow_pde.metrics.errors.Correlation.first_below` is then the high-correlation time
    as published.
    """
    at = np.asarray(times, np.float64)
    single = [correlation(p, t, at).per_frame for p, t in zip(pred, true, strict=True)]
    means = [
        float(np.mean(known)) if (known := [c for c in frame if c is not None]) else None
        for frame in zip(*single, strict=True)
    ]
    return Correlation(means, tuple(at.tolist()))


def agreeing(members: Float[np.ndarray, "m f n"], times: Sequence[float]) -> Correlation:
    """Correlate samples of one rollout with each other: how long they trust themselves.

    Raises
    ------
    ValueError
        If there is one sample alone.
    """
    if len(members) < 2:
        raise ValueError(f"agreement needs at least 2 samples, got {len(members)}.")
    first, second = zip(*combinations(members, 2), strict=True)
    return correlated(np.stack(first), np.stack(second), times)


def error_spectrum(
    pred: Float[np.ndarray, "*b n"], true: Float[np.ndarray, "*b n"]
) -> Float[np.ndarray, " k"]:
    """Return the energy of the error by wave number, mean over all before the last axis."""
    error = np.asarray(pred, np.float64) - np.asarray(true, np.float64)
    return energy_spectrum_1d(error.reshape(-1, error.shape[-1])).mean(0)
