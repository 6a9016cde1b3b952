"""Whether the spread of an ensemble tells its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


def crps(members: Float[np.ndarray, m * s], truth: Float[np.ndarray, "*s"]) -> tuple[float, float]:
    """Continuous ranked probability score, plain and fair, averaged over all values.

    ``mean |x - y| - mean |x - x'| / 2`` over members; the fair one divides the second mean by
    pairs of different members, and does not fall with the size of the ensemble.

    Returns
    -------
    tuple of float
        Plain and fair; the fair one is NaN for one member.
    """
    members, truth = np.asarray(members, np.float64), np.asarray(truth, np.float64)
    m = len(members)
    skill = np.abs(members - truth).mean()
    ordered = np.sort(members, axis=0)
    weights = (2 * np.arange(m) - m + 1).reshape(-1, *[1] * truth.ndim)
    pairs = 2 * (weights * ordered).sum(0).mean()  # sum over all ordered pairs of |x - x'|
    fair = skill - pairs / (m * (m - 1)) / 2 if m > 1 else np.nan
    return float(skill - pairs / m**2 / 2), float(fair)


@dataclass(frozen=True)
class Calibration:
    """Spread against skill.

    Attributes
    ----------
    spread : float
        Root of the mean variance of the members, with ``m - 1``.
    skill : float
        Root mean square error of their mean.
    ratio, corrected : float
        Spread over skill; the second times ``sqrt((m + 1) / m)``, which is 1 for an ensemble of
        which the truth could be a member. Below 1: overconfident.
    """

    spread: float
    skill: float
    ratio: float
    corrected: float


def calibration(members: Float[np.ndarray, m * s], truth: Float[np.ndarray, "*s"]) -> Calibration:
    """Compare the spread of members with the error of their mean.

    Raises
    ------
    ValueError
        For fewer than two members.
    """
    members, truth = np.asarray(members, np.float64), np.asarray(truth, np.float64)
    m = len(members)
    if m < 2:
        raise ValueError(f"a spread needs at least 2 members, got {m}.")
    spread = float(np.sqrt(members.var(0, ddof=1).mean()))
    skill = float(np.sqrt(((members.mean(0) - truth) ** 2).mean()))
    ratio = spread / skill if skill else np.inf
    return Calibration(spread, skill, ratio, ratio * np.sqrt((m + 1) / m))


def coverage(members: Float[np.ndarray, m * s], truth: Float[np.ndarray, "*s"]) -> float:
    """Share of values between the least and the greatest of the members.

    It is ``(m - 1) / (m + 1)`` for an ensemble of which the truth could be a member.

    Raises
    ------
    ValueError
        For fewer than two members.
    """
    if len(members) < 2:
        raise ValueError(f"coverage needs at least 2 members, got {len(members)}.")
    inside = (np.min(members, 0) <= truth) & (truth <= np.max(members, 0))
    return float(inside.mean())
