"""What was measured: readings, the operator that they are of, and their noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rectiflow.inverse.operators import LinearOperator
from rectiflow.states import State, leaves, map_state


class NoiseModel(ABC):
    """The law of a reading, given what the operator makes of the sample."""

    @abstractmethod
    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw readings."""

    @abstractmethod
    def residual(self, clean: Tensor, y: Tensor) -> Tensor:
        """Return where readings pull, of the shape of ``y``: the slope of ``-log p(y | clean)``.

        In units in which its steepest slope is 1, so that steps of at most 1 do not overshoot.
        """


@dataclass(frozen=True)
class Gaussian(NoiseModel):
    """``y = clean + sigma n``.

    Parameters
    ----------
    sigma : float, default 0
        Standard deviation.
    """

    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise ValueError(f"sigma must be at least 0, got {self.sigma}.")

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add normal noise."""
        drawn = torch.randn(
            clean.shape, generator=generator, dtype=clean.dtype, device=clean.device
        )
        return clean + self.sigma * drawn

    def residual(self, clean: Tensor, y: Tensor) -> Tensor:
        """Return ``clean - y``."""
        return clean - y


@dataclass(frozen=True)
class Poisson(NoiseModel):
    """Counts: ``y peak`` is Poisson with mean ``clean peak``.

    Parameters
    ----------
    peak : float
        Counts at the value 1.
    """

    peak: float

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw counts over the peak."""
        return torch.poisson(clean.clamp_min(0) * self.peak, generator=generator) / self.peak

    def residual(self, clean: Tensor, y: Tensor) -> Tensor:
        """Return ``clean - y``: the slope over the information ``peak / clean`` of a count."""
        return clean - y


@dataclass(frozen=True)
class Laplace(NoiseModel):
    """Noise with outliers, ``p ~ exp(-|clean - y| / scale)``.

    Parameters
    ----------
    scale : float
        Readings further off than this pull no more than that far.
    """

    scale: float

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Add noise of two exponential tails."""
        u = torch.rand(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        u = 2 * u - 1
        return clean - self.scale * u.sign() * torch.log1p(-u.abs())

    def residual(self, clean: Tensor, y: Tensor) -> Tensor:
        """Return ``clean - y`` as far as the scale: Huber's slope, which has no jump at 0."""
        return (clean - y).clamp(-self.scale, self.scale)


@dataclass(frozen=True)
class Clipped(NoiseModel):
    """Readings at the limits say only that the truth is at least as far out.

    Parameters
    ----------
    limit : float
        Readings lie in ``[-limit, limit]``.
    """

    limit: float

    def sample(self, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Clip."""
        return clean.clamp(-self.limit, self.limit)

    def residual(self, clean: Tensor, y: Tensor) -> Tensor:
        """Return ``clean - y``, and 0 for what lies beyond a limit that was reached."""
        gap = clean - y
        gap = torch.where(y >= self.limit, gap.clamp(max=0), gap)
        return torch.where(y <= -self.limit, gap.clamp(min=0), gap)


class Pull(Protocol):
    """What corrections need: a gradient in the space of samples."""

    def gradient(self, x: State) -> State:
        """Return the slope of a misfit at samples ``x``."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Readings of samples.

    Parameters
    ----------
    operator : LinearOperator, or a differentiable callable
        From samples ``(b, *event)`` to readings ``(b, *reading)``; through a decoder, for latents.
    y : Tensor, shape (b, *reading) or (1, *reading)
    noise : NoiseModel
        Noise-free Gaussian readings by default.

    Raises
    ------
    ValueError
        When a reading is not finite, or readings have another shape than the operator's.
    """

    operator: Callable[[Tensor], Tensor]
    y: Tensor
    noise: NoiseModel = Gaussian()

    def __post_init__(self) -> None:
        if not bool(self.y.isfinite().all()):
            raise ValueError(
                f"{int((~self.y.isfinite()).sum())} of {self.y.numel()} readings are not finite; "
                "expected numbers. Mask what was not measured."
            )

    @property
    def is_linear(self) -> bool:
        """Whether the operator has an adjoint of its own."""
        return isinstance(self.operator, LinearOperator)

    @property
    def sigma(self) -> float:
        """Standard deviation of Gaussian noise; 0 for other noise."""
        return self.noise.sigma if isinstance(self.noise, Gaussian) else 0.0

    def residual(self, x: Tensor) -> Tensor:
        """Return where the readings pull, in their own space."""
        return self._pull(self.operator(x))

    def _pull(self, seen: Tensor) -> Tensor:
        if seen.shape[1:] != self.y.shape[1:] or len(self.y) not in (1, len(seen)):
            raise ValueError(
                f"readings must have the operator's shape, got {tuple(self.y.shape)} for "
                f"{tuple(seen.shape)}."
            )
        return self.noise.residual(seen, self.y.to(seen))

    def gradient(self, x: Tensor) -> Tensor:
        """Return ``A^T residual``, by differentiation where the operator is not linear."""
        if isinstance(self.operator, LinearOperator):
            return self.operator.adjoint(self.residual(x))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            seen = self.operator(x)
            pull = self._pull(seen.detach())
            return torch.autograd.grad(seen, x, pull)[0]

    def misfit(self, x: Tensor) -> Tensor:
        """Return the root-mean-square residual of each row, shape ``(b,)``."""
        return self.residual(x).flatten(1).square().mean(1).sqrt()


@dataclass(frozen=True)
class Energy:
    """Any differentiable wish: a loss of samples, of one number per row.

    Parameters
    ----------
    loss : callable
        ``loss(x) -> (b,)``, of states of any form.
    """

    loss: Callable[[State], Tensor]

    def gradient(self, x: State) -> State:
        """Return the slope of the loss, each row's by itself."""
        with torch.enable_grad():
            x = map_state(lambda a: a.detach().requires_grad_(), x)
            slopes = torch.autograd.grad(self.loss(x).sum(), leaves(x), materialize_grads=True)
        return dict(zip(x, slopes, strict=True)) if isinstance(x, dict) else slopes[0]
