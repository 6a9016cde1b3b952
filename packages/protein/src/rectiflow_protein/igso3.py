"""The isotropic Gaussian on rotations, the noise that ReQFlow trains from."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.spaces import rotvec_to_quat
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

GRID_POINTS = 1000
SERIES_TERMS = 1000


@functools.cache
def angle_cdf(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Tabulate the law of the rotation angle.

    The density is :math:`f(\omega)(1-\cos\omega)/\pi` with

    .. math:: f(\omega) = \sum_{l=0}^{1000} (2l+1)\, e^{-l(l+1)\sigma^2/2}\,
              \frac{\sin((l+\frac12)\omega)}{\sin(\omega/2)}

    Parameters
    ----------
    sigma : float
        Concentration, radians.

    Returns
    -------
    tuple of ndarray, shape (1000,) each
        Angles :math:`\pi (k/1000)^3`, dense near zero, and the distribution function there.
    """
    omega = math.pi * (np.arange(GRID_POINTS + 1) / GRID_POINTS) ** 3
    ell = np.arange(SERIES_TERMS + 1)[:, None]
    weight = (2 * ell + 1) * np.exp(-ell * (ell + 1) * sigma**2 / 2)
    series = (weight * np.sin((ell + 0.5) * omega) / (np.sin(omega / 2) + 1e-7)).sum(0)
    density = series * (1 - np.cos(omega)) / math.pi
    cdf = np.cumsum(np.diff(omega) * (density[1:] + density[:-1]) / 2)
    return omega[1:], cdf / cdf[-1]


def sample_igso3(
    shape: Sequence[int],
    sigma: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "*shape 4"]:
    """Draw rotations with a uniform axis and an angle from :func:`angle_cdf`.

    Parameters
    ----------
    shape : sequence of int
        Batch shape.
    sigma : float
        Concentration in radians; 1.5 is nearly uniform.
    generator, device
        As for ``torch.rand``.

    Returns
    -------
    Tensor, shape (*shape, 4)
        Unit quaternions.
    """
    axis = torch.randn(*shape, 3, generator=generator, device=device)
    axis = axis / torch.linalg.vector_norm(axis, dim=-1, keepdim=True)
    p = torch.rand(*shape, generator=generator, device=device, dtype=torch.float64)
    omega, cdf = (torch.from_numpy(a).to(p.device) for a in angle_cdf(sigma))
    stop = torch.searchsorted(cdf, p).clamp(max=GRID_POINTS - 1)
    start = (stop - 1).clamp(min=0)
    weight = ((p - cdf[start]) / (cdf[stop] - cdf[start]).clamp(min=1e-7)).clamp(0, 1)
    angle = torch.lerp(omega[start], omega[stop], weight).to(axis.dtype)
    return rotvec_to_quat(axis * angle.unsqueeze(-1))
