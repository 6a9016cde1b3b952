"""Time grids: where a solver stops between noise and data.

Every function returns ``steps + 1`` increasing float64 numbers on the host with exact ends.
Integrate along ``grid``, or along ``grid[::-1]`` to go from data to noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from rectiflow.paths import Linear, Path

_LINEAR = Linear()


def uniform(steps: int, t_min: float = 0.0, t_max: float = 1.0) -> list[float]:
    r"""Return equal steps, :math:`t_i = t_{min} + \tfrac{i}{N}(t_{max} - t_{min})`.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    t_min, t_max : float
        Ends of the grid in ``[0, 1]``.

    Raises
    ------
    ValueError
        When ``steps < 1`` or not ``0 <= t_min < t_max <= 1``.

    Examples
    --------
    >>> uniform(4)
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    _check_ends(t_min, t_max)
    return _spaced(steps, t_min, t_max, lambda u: t_min + u * (t_max - t_min))


def shifted(steps: int, shift: float) -> list[float]:
    r"""Spend more steps at high noise: uniform noise level, then shifted.

    With :math:`\tau = 1 - i/N`,
    :math:`t_i = 1 - \dfrac{s\,\tau}{1 + (s - 1)\,\tau}`; ``shift = 1`` is :func:`uniform`.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    shift : float
        The shift s > 0; above 1 the steps are dense near t = 0. Large images use 3 and more.

    Raises
    ------
    ValueError
        When ``steps < 1`` or ``shift <= 0``.

    References
    ----------
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"
    (ICML 2024), Eq. (23).
    """
    _check_positive("shift", shift)

    def time(u: float) -> float:
        level = 1.0 - u
        return 1.0 - shift * level / (1.0 + (shift - 1.0) * level)

    return _spaced(steps, 0.0, 1.0, time)


def log_snr(steps: int, t_min: float, t_max: float, path: Path = _LINEAR) -> list[float]:
    r"""Return equal steps in the half log-SNR :math:`\lambda = \log(a/b)`.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    t_min, t_max : float
        Ends, strictly inside ``(0, 1)``: lambda is infinite at 0 and 1.
    path : Path
        Whose signal-to-noise ratio; the linear path, ``a = t`` and ``b = 1 - t``, by default.

    Raises
    ------
    ValueError
        When ``steps < 1`` or not ``0 < t_min < t_max < 1``.

    References
    ----------
    Lu et al., "DPM-Solver" (NeurIPS 2022), section 4.
    """
    if not 0.0 < t_min < t_max < 1.0:
        raise ValueError(
            f"grid ends are out of order or range, got t_min={t_min}, t_max={t_max}; expected "
            "0 < t_min < t_max < 1, because the log-SNR is infinite at 0 and 1. Use for example "
            "t_min=1e-3, t_max=0.999"
        )
    low, high = path.lam(t_min), path.lam(t_max)
    return _spaced(steps, t_min, t_max, lambda u: path.t_of_lam(low + u * (high - low)))


def karras(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    r"""Return the noise ratios of EDM as times of the linear path.

    :math:`r_i = \bigl(\sigma_{max}^{1/\rho} + \tfrac{i}{N}
    (\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho})\bigr)^\rho` and :math:`t_i = 1/(1 + r_i)`.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    sigma_min, sigma_max : float
        Smallest and largest noise-to-signal ratio ``b/a``.
    rho : float
        Warp; larger is denser near the data.

    Raises
    ------
    ValueError
        When ``steps < 1``, ``rho <= 0`` or not ``0 < sigma_min < sigma_max``.

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (NeurIPS 2022), Eq. (5).
    """
    _check_positive("rho", rho)
    t_min, t_max = _ends_of_ratios(sigma_min, sigma_max)
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return _spaced(steps, t_min, t_max, lambda u: 1.0 / (1.0 + (first + u * (last - first)) ** rho))


def exponential(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> list[float]:
    r"""Return noise ratios in geometric progression as times of the linear path.

    :math:`r_i = \sigma_{max} (\sigma_{min}/\sigma_{max})^{i/N}` and :math:`t_i = 1/(1 + r_i)`: the
    limit of :func:`karras` for large ``rho``, and :func:`log_snr` given by its noise ratios.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    sigma_min, sigma_max : float
        Smallest and largest noise-to-signal ratio ``b/a``.

    Raises
    ------
    ValueError
        When ``steps < 1`` or not ``0 < sigma_min < sigma_max``.
    """
    return log_snr(steps, *_ends_of_ratios(sigma_min, sigma_max))


def quadratic(steps: int, t_min: float = 0.0, t_max: float = 1.0) -> list[float]:
    r"""Return steps that shrink linearly towards the data, DDIM's quadratic schedule.

    :math:`t_i = t_{max} - (1 - i/N)^2 (t_{max} - t_{min})`.

    Parameters
    ----------
    steps : int
        Number of intervals N.
    t_min, t_max : float
        Ends of the grid in ``[0, 1]``.

    Raises
    ------
    ValueError
        When ``steps < 1`` or not ``0 <= t_min < t_max <= 1``.

    Examples
    --------
    >>> quadratic(2)
    [0.0, 0.75, 1.0]
    """
    _check_ends(t_min, t_max)
    return _spaced(steps, t_min, t_max, lambda u: t_max - (1.0 - u) ** 2 * (t_max - t_min))


def from_indices(times: Sequence[float], indices: Sequence[int]) -> list[float]:
    """Pick grid points from a finer grid, as schedule searches do.

    Parameters
    ----------
    times : sequence of float
        The grid to pick from, increasing.
    indices : sequence of int
        Which points, at least two, increasing. Include ``0`` and ``len(times) - 1`` to keep its
        ends.

    Raises
    ------
    ValueError
        When an index is out of range, or the times picked do not increase.

    Examples
    --------
    >>> from_indices([0.0, 0.25, 0.5, 1.0], [0, 2, 3])
    [0.0, 0.5, 1.0]
    """
    outside = [i for i in indices if not 0 <= i < len(times)]
    if outside:
        raise ValueError(
            f"indices out of range, got {outside}; expected 0 to {len(times) - 1} for a grid of "
            f"{len(times)} times"
        )
    grid = [float(times[i]) for i in indices]
    check_grid(grid)
    if grid[0] > grid[-1]:
        raise ValueError(
            f"the times picked must increase, got {grid}; expected increasing indices of an "
            "increasing grid. Reverse the result to go from data to noise"
        )
    return grid


def check_grid(grid: Sequence[float]) -> None:
    """Raise unless ``grid`` has two or more finite, strictly increasing or decreasing times."""
    if len(grid) < 2:
        raise ValueError(f"a grid needs at least 2 times, got {len(grid)}; expected steps + 1")
    steps = [stop - start for start, stop in pairwise(grid)]
    if not (all(h > 0 for h in steps) or all(h < 0 for h in steps)) or not math.isfinite(
        grid[-1] - grid[0]
    ):
        shown = ", ".join(f"{t:g}" for t in grid[:6]) + (", ..." if len(grid) > 6 else "")
        raise ValueError(
            f"grid times must strictly increase or strictly decrease, got [{shown}]. "
            "Concatenate plans instead of grids to go back and forth"
        )


def _spaced(steps: int, first: float, last: float, time: Callable[[float], float]) -> list[float]:
    """Evaluate ``time`` at ``i / steps`` between the exact ends."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; expected the number of intervals")
    grid = [float(first), *(time(i / steps) for i in range(1, steps)), float(last)]
    check_grid(grid)
    return grid


def _ends_of_ratios(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    if not 0.0 < sigma_min < sigma_max:
        raise ValueError(
            f"noise ratios must be positive and ordered, got sigma_min={sigma_min}, "
            f"sigma_max={sigma_max}; expected 0 < sigma_min < sigma_max"
        )
    return 1.0 / (1.0 + sigma_max), 1.0 / (1.0 + sigma_min)


def _check_ends(t_min: float, t_max: float) -> None:
    if not 0.0 <= t_min < t_max <= 1.0:
        raise ValueError(
            f"grid ends are out of order or range, got t_min={t_min}, t_max={t_max}; "
            "expected 0 <= t_min < t_max <= 1"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0.0:
        raise ValueError(f"{name} must be positive, got {value}; expected a number above 0")
