"""How far trajectories are from others, one by one and as a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

BINS = 50


def ade(made: Float[np.ndarray, "*k t n d"], true: Float[np.ndarray, "t n d"]) -> np.ndarray:
    """Return the mean distance over frames and nodes (average displacement error)."""
    found: np.ndarray = np.linalg.norm(made - true, axis=-1).mean((-1, -2))
    return found


def fde(made: Float[np.ndarray, "*k t n d"], true: Float[np.ndarray, "t n d"]) -> np.ndarray:
    """Return the mean distance over nodes in the last frame (final displacement error)."""
    return ade(made[..., -1:, :, :], true[-1:])


def least(
    made: Float[np.ndarray, "k t n d"], true: Float[np.ndarray, "t n d"], *, apart: bool = False
) -> tuple[float, float]:
    """Return the least ADE and FDE of some samples (minADE, minFDE).

    Of all nodes together, or ``apart``: each node has the samples that suit it, as is usual for
    pedestrians.
    """
    off = np.linalg.norm(made - true, axis=-1)
    each = [off.mean(1), off[:, -1]]  # (k, n)
    errors = [x.min(0).mean() if apart else x.mean(1).min() for x in each]
    return float(errors[0]), float(errors[1])


def representatives(
    made: Float[np.ndarray, "k t n d"], count: int, *, seed: int = 0
) -> Float[np.ndarray, "c t n d"]:
    """Return, for each node, the samples nearest to the centres of ``count`` clusters of its ends.

    References
    ----------
    Mao et al., "Leapfrog Diffusion Model for Stochastic Trajectory Prediction" (CVPR 2023), and the
    evaluation of GeoTDM, which draws 60 samples and keeps 20.
    """
    from scipy.cluster.vq import kmeans2

    if not 1 <= count <= len(made):
        raise ValueError(f"clusters must lie in 1 to the {len(made)} samples, got {count}.")
    kept = []
    for node in range(made.shape[2]):
        ends = made[:, -1, node]
        centres, _ = kmeans2(ends, count, minit="++", seed=np.random.default_rng(seed))
        nearest = np.linalg.norm(ends - centres[:, None], axis=-1).argmin(1)
        kept.append(made[nearest, :, node])
    return np.stack(kept, 2)


def marginal_score(real: Float[np.ndarray, "m c"], made: Float[np.ndarray, "k c"]) -> float:
    """Return how far the densities of each column are apart, in 50 bins over the real range.

    The mean over bins of the absolute difference, then over columns.

    Raises
    ------
    ValueError
        When the columns differ in number, or a real one is constant.
    """
    if real.shape[1] != made.shape[1]:
        raise ValueError(f"expected as many columns, got {real.shape[1]} and {made.shape[1]}.")
    low = real.min(0)
    width = (real.max(0) - low) / BINS
    if not (width > 0).all():
        raise ValueError("a column of the real set is constant; expected a range of values.")
    gaps = []
    for column, (start, step) in enumerate(zip(low, width, strict=True)):
        edges = start + step * np.arange(BINS + 1)
        density, _ = np.histogram(real[:, column], edges, density=True)
        centres = (edges[1:] + edges[:-1]) / 2
        near = np.abs(made[:, column, None] - centres) < step / 2
        gaps.append(np.abs(near.mean(0) / step - density).mean())
    return float(np.mean(gaps))
