"""How far a flow is from the truth: relative errors and how long it stays correlated.

Numbers are of physical units. A relative error whose truth is zero everywhere is None: it is
undefined, and an absolute one stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_VARIANCE = 1e-7  # of The Well: keeps VRMSE finite where the truth is constant


@dataclass(frozen=True)
class RelativeError:
    """Relative L2 errors of one trajectory.

    Attributes
    ----------
    total : float, optional
        ``|pred - true| / |true|`` over all frames, nodes and channels.
    per_channel, per_frame : list of float or None
    absolute : list of float
        Root mean square error of each channel, in its unit.
    without_given : float, optional
        The total without the frames that were given: the headline where some were.
    free_nodes : float, optional
        The total over nodes whose velocity is not given by the boundary.
    """

    total: float | None
    per_channel: list[float | None]
    per_frame: list[float | None]
    absolute: list[float]
    without_given: float | None
    free_nodes: float | None


def relative_l2(
    pred: Float[np.ndarray, "f n c"],
    true: Float[np.ndarray, "f n c"],
    *,
    mask: Bool[np.ndarray, " n"] | None = None,
    free: Bool[np.ndarray, " n"] | None = None,
    given_frames: int = 0,
) -> RelativeError:
    """Measure one trajectory.

    Parameters
    ----------
    pred, true : ndarray, shape (f, n, c)
        Frames, nodes, channels, in physical units.
    mask : ndarray, shape (n,), optional
        Nodes that are real; padding does not count.
    free : ndarray, shape (n,), optional
        Nodes that are not put in from outside.
    given_frames : int, default 0
        First frames that the prediction was given.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    if pred.shape != true.shape or pred.ndim != 3:
        raise ValueError(
            f"prediction and truth must have one shape (frames, nodes, channels), got {pred.shape} "
            f"and {true.shape}."
        )
    if mask is not None:
        pred, true = pred[:, mask], true[:, mask]
        free = None if free is None else free[mask]
    error = pred - true
    return RelativeError(
        total=_ratio(error, true),
        per_channel=[_ratio(error[..., c], true[..., c]) for c in range(true.shape[-1])],
        per_frame=[_ratio(e, t) for e, t in zip(error, true, strict=True)],
        absolute=np.sqrt((error**2).mean((0, 1))).tolist(),
        without_given=_ratio(error[given_frames:], true[given_frames:]),
        free_nodes=None if free is None else _ratio(error[:, free], true[:, free]),
    )


def _ratio(error: np.ndarray, true: np.ndarray) -> float | None:
    size = float(np.linalg.norm(true))
    return float(np.linalg.norm(error)) / size if size > 0 else None


def mean_error(errors: list[RelativeError]) -> float | None:
    """Mean over trajectories of their total: one number each, then the mean."""
    totals = [error.total for error in errors if error.total is not None]
    return float(np.mean(totals)) if totals else None


def vrmse(pred: Float[np.ndarray, "*s"], true: Float[np.ndarray, "*s"]) -> float:
    """Root mean square error over the deviation of the truth, ``sqrt(mean e² / (var + 1e-7))``.

    Of a constant truth it is the error times 3162: see :func:`is_constant`.
    """
    pred, true = np.asarray(pred, np.float64), np.asarray(true, np.float64)
    return float(np.sqrt(((pred - true) ** 2).mean() / (true.var() + _VARIANCE)))


def is_constant(values: Float[np.ndarray, "*s"]) -> bool:
    """Say whether values do not vary, so that nothing relative to their variance means anything."""
    return float(np.ptp(values)) <= 1e-12 * float(np.abs(values).max(initial=0))


@dataclass(frozen=True)
class Correlation:
    """How a prediction stays correlated with the truth.

    Attributes
    ----------
    per_frame : list of float or None
        Pearson's; None where one of the two does not vary.
    times : tuple of float
    """

    per_frame: list[float | None]
    times: tuple[float, ...]

    def time(self, threshold: float = 0.8) -> float | None:
        """Return when it first falls below a threshold, between frames; None if it never does.

        Frames without a correlation are passed over.
        """
        before: tuple[float, float] | None = None
        for t, c in zip(self.times, self.per_frame, strict=True):
            if c is None:
                continue
            if c < threshold:
                if before is None:
                    return t
                t0, c0 = before
                return t0 + (c0 - threshold) / (c0 - c) * (t - t0)
            before = (t, c)
        return None

    def first_below(self, threshold: float = 0.8) -> float | None:
        """Return the time of the first frame below a threshold; None if there is none."""
        pairs = zip(self.times, self.per_frame, strict=True)
        return next((t for t, c in pairs if c is not None and c < threshold), None)


def correlation(
    pred: Float[np.ndarray, "f n"], true: Float[np.ndarray, "f n"], times: Float[np.ndarray, " f"]
) -> Correlation:
    """Correlate each frame of a prediction with that of the truth."""
    found: list[float | None] = []
    for p, t in zip(np.asarray(pred, np.float64), np.asarray(true, np.float64), strict=True):
        if is_constant(p) or is_constant(t):
            found.append(None)
            continue
        p, t = p - p.mean(), t - t.mean()
        found.append(float((p * t).sum() / np.sqrt((p**2).sum() * (t**2).sum())))
    return Correlation(found, tuple(np.asarray(times, np.float64).tolist()))
