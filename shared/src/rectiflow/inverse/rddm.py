"""Residual denoising diffusion: a residual and noise, each with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rectiflow.randomness import KeyedNoise

Predict = Callable[[Tensor, float, float], tuple[Tensor, Tensor]]
"""``predict(x, a, b) -> (residual, noise)`` at the share a of the residual and the level b."""


@dataclass(frozen=True)
class Clocks:
    """Shares of the residual and levels of the noise, from the degraded end to the data.

    A point is ``x = x1 + a residual + b noise``, with ``residual = degraded - x1``.

    Parameters
    ----------
    shares, levels : tuple of float
        Neither grows. They end at 0, or go on to there in a last step.
    """

    shares: tuple[float, ...]
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        pairs = list(zip(self.shares, self.levels, strict=False))
        grows = any(q[0] > p[0] or q[1] > p[1] for p, q in pairwise(pairs))
        if len(self.shares) != len(self.levels) or len(pairs) < 2 or grows or min(pairs[-1]) < 0:
            raise ValueError(
                "two clocks must have equally many times, two or more, and not grow, got "
                f"{len(self.shares)} shares and {len(self.levels)} levels."
            )

    @classmethod
    def of_training(cls, steps: int = 1000, *, total: float = 0.01) -> Clocks:
        """Return the authors' clocks at all steps of training.

        Increments of the share decrease linearly, those of the variance increase linearly.

        Parameters
        ----------
        steps : int
        total : float
            Variance at the degraded end: 0.01 for restoration, 1 for generation.
        """
        ramp = torch.arange(1, steps + 1, dtype=torch.float64)
        shares = (ramp.flip(0) / ramp.sum()).cumsum(0)
        levels = (total * ramp / ramp.sum()).cumsum(0).sqrt()
        return cls(tuple(shares.flip(0).tolist()), tuple(levels.flip(0).tolist()))

    @classmethod
    def of_flow(cls, times: Sequence[float]) -> Clocks:
        """Return the clocks of a rectified flow: both are ``1 - t``."""
        left = tuple(1.0 - float(t) for t in times)
        return cls(left, left)

    @classmethod
    def of_diffusion(cls, alphas_cumprod: Sequence[float]) -> Clocks:
        """Return those of a diffusion without input, given from noise to data."""
        bars = [float(a) for a in alphas_cumprod]
        return cls(tuple(1 - a**0.5 for a in bars), tuple((1 - a) ** 0.5 for a in bars))

    def some(self, count: int) -> Clocks:
        """Return so many steps spread evenly over these, and the end at 0."""
        last = len(self.shares) - 1
        if not 1 <= count <= last + 1:
            raise ValueError(f"steps must lie in 1 to {last + 1}, got {count}.")
        index = [round(i * last / count) for i in range(count)]
        return Clocks(
            (*(self.shares[i] for i in index), 0.0), (*(self.levels[i] for i in index), 0.0)
        )


@torch.no_grad()
def two_clocks(
    predict: Predict,
    x: Tensor,
    clocks: Clocks,
    *,
    eta: float = 0.0,
    noise: KeyedNoise | None = None,
) -> Tensor:
    r"""Carry a degraded, noisy sample to data, one evaluation per step.

    .. math:: x' = x - (a - a')\, r - \bigl(b - \sqrt{b'^2 - s^2}\bigr)\, e + s z, \qquad
              s^2 = \eta\, (b^2 - b'^2)\, b'^2 / b^2

    Parameters
    ----------
    predict : callable
        Residual and noise, :data:`Predict`. A rectified flow ``v`` from noise alone, where the
        residual is ``-D`` and the noise E, is the special case in which the step is Euler's; see
        :func:`of_velocity`.
    x : Tensor, shape (b, *event)
        ``degraded + levels[0] noise``.
    clocks : Clocks
    eta : float, default 0
        In ``[0, 1]``: share of the noise that is drawn afresh; 0 is deterministic.
    noise : KeyedNoise, optional
        For ``eta`` above 0.

    References
    ----------
    Liu et al., "Residual Denoising Diffusion Models" (CVPR 2024).
    """
    if not 0 <= eta <= 1 or (eta > 0 and noise is None):
        raise ValueError(
            f"eta must be in [0, 1], and noise=KeyedNoise(...) given above 0, got {eta}."
        )
    points = list(zip(clocks.shares, clocks.levels, strict=True))
    for i, ((a, b), (a_next, b_next)) in enumerate(pairwise(points)):
        residual, eps = predict(x, a, b)
        fresh = (eta * (b**2 - b_next**2)) ** 0.5 * b_next / b if b > 0 else 0.0
        kept = max(b_next**2 - fresh**2, 0.0) ** 0.5
        x = x - (a - a_next) * residual - (b - kept) * eps
        if fresh > 0:
            assert noise is not None
            drawn: Any = noise.later(i).like(x)
            x = x + fresh * drawn
    return x


def of_velocity(field: Callable[[Tensor, float], Tensor]) -> Predict:
    """Return what a rectified flow from noise alone tells: the residual ``-D`` and the noise."""

    def predict(x: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
        v = field(x, 1 - b)
        return -(x + b * v), x - (1 - b) * v

    return predict
