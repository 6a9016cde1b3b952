"""RED-Diff: a sample that fits readings, by optimisation against the denoiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.fields import VelocityField
from rectiflow.inverse.measurement import Measurement


class Descent(ABC):
    """How slopes become steps; a value.

    Beside torch's optimisers because those take seconds to import.
    """

    @abstractmethod
    def begin(self) -> Callable[[Tensor], Tensor]:
        """Return what makes a step of each slope of one run."""


@dataclass(frozen=True)
class Plain(Descent):
    """Steps of ``-rate`` times the slope.

    Parameters
    ----------
    rate : float, default 0.1
    """

    rate: float = 0.1

    def begin(self) -> Callable[[Tensor], Tensor]:
        """Return the steps."""
        return lambda slope: -self.rate * slope


@dataclass(frozen=True)
class Adam(Descent):
    """Steps by mean and size of past slopes; the authors' choice.

    Parameters
    ----------
    rate : float, default 0.1
    betas : tuple of float, default (0.9, 0.99)

    References
    ----------
    Kingma & Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015).
    """

    rate: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)

    def begin(self) -> Callable[[Tensor], Tensor]:
        """Return the steps."""
        count = 0
        mean: Any = 0.0
        square: Any = 0.0
        first, second = self.betas

        def step(slope: Tensor) -> Tensor:
            nonlocal count, mean, square
            count += 1
            mean = first * mean + (1 - first) * slope
            square = second * square + (1 - second) * slope * slope
            size = (square / (1 - second**count)).sqrt() + 1e-8
            return -self.rate / (1 - first**count) * mean / size

        return step


_ADAM = Adam()


@torch.no_grad()
def red_diff(
    field: VelocityField,
    measurement: Measurement,
    start: Tensor,
    times: Sequence[float],
    *,
    noise: Iterable[Tensor] | torch.Generator | None = None,
    lam: float = 0.25,
    descent: Descent = _ADAM,
) -> Tensor:
    r"""Minimise the misfit plus the denoiser's residual, over the sample itself.

    Each step takes one time, draws ``x_t = t mu + (1 - t) eps``, and follows

    .. math:: \lambda\, (\mu - D(x_t, t)) + A^T (A \mu - y)

    which is the authors' gradient at their linear weight, written without a division. One
    evaluation per step, none of them differentiated. The result is a ridge-like estimate, not the
    posterior mean: for data N(m, C) it solves ``(lam K + A^T A)(mu - m) = A^T (y - A m)`` with K
    the mean of ``(1-t)² ((1-t)² + t² C)^{-1}`` over the times.

    Parameters
    ----------
    field : VelocityField
        On the straight path.
    measurement : Measurement
    start : Tensor, shape (b, *event)
        First estimate, such as ``operator.pinv(y)``.
    times : sequence of float
        One for each step, from noise to data.
    noise : iterable of Tensor, or Generator
        The eps of each step, or where they are drawn from.
    lam : float, default 0.25
        Weight of the prior against a sum of squares. Against the authors' means over elements
        theirs is ``lam`` times the number of unknowns over that of readings.
    descent : Descent
        :class:`Adam`, or :class:`Plain`.

    Raises
    ------
    ValueError
        When ``lam`` is negative or there are no times.

    References
    ----------
    Mardani et al., "A Variational Perspective on Solving Inverse Problems with Diffusion Models"
    (ICLR 2024).
    """
    if lam < 0 or not len(times):
        raise ValueError(
            f"lam must be at least 0 and times some, got {lam} and {len(times)} times."
        )
    mu, step = start, descent.begin()
    drawn = iter(noise) if isinstance(noise, Iterable) else _draws(noise, mu)
    for t in times:
        eps = next(drawn)
        x = t * mu + (1 - t) * eps
        v: Any = field(x, t)
        data = x + (1 - t) * v
        mu = mu + step(lam * (mu - data) + measurement.gradient(mu))
    return mu


def _draws(generator: torch.Generator | None, like: Tensor) -> Iterator[Tensor]:
    while True:
        yield torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
