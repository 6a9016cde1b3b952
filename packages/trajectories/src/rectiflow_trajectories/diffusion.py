"""The authors' diffusion in discrete steps: schedule, training, sampling, likelihood.

All is about ``y``, a trajectory less its reference, or, where no frames are given, less its mean;
rows are whatever shares a step. ``noise_of(y, k)`` is the network: what it takes for noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

NoiseOf: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Project: TypeAlias = Callable[[Tensor], Tensor]


class Reverse(NamedTuple):
    """Law of the state a step nearer to the data, and the data that the network expects."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    data: Tensor


class Bound(NamedTuple):
    """Terms of the bound on the negative log-likelihood of each row, in nats.

    ``terms``, ``data_error`` and ``noise_error`` are ``(m, steps)``, of the last step first.
    """

    total: Float[Tensor, " m"]
    prior: Float[Tensor, " m"]
    terms: Float[Tensor, "m k"]
    data_error: Float[Tensor, "m k"]
    noise_error: Float[Tensor, "m k"]


@dataclass(frozen=True)
class Diffusion:
    """A variance-preserving diffusion whose network tells the noise.

    Parameters
    ----------
    steps : int
        More than 20.
    schedule : {"linear", "cosine"}
    rescale : bool
        Tell the network steps as if there were 1000.

    References
    ----------
    Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024); Nichol and Dhariwal,
    "Improved Denoising Diffusion Probabilistic Models" (ICML 2021).
    """

    steps: int = 1000
    schedule: str = "linear"
    rescale: bool = False

    def __post_init__(self) -> None:
        if self.steps <= 20:
            raise ValueError(f"a diffusion needs more than 20 steps, got {self.steps}.")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule must be linear or cosine, got {self.schedule!r}.")

    @cached_property
    def betas(self) -> Float[np.ndarray, " k"]:
        """Variance of the noise of each step, float64."""
        if self.schedule == "linear":
            return np.linspace(0.1 / self.steps, 20 / self.steps, self.steps)
        level = np.cos(np.pi / 2 * (np.arange(self.steps + 1) / self.steps + 0.008) / 1.008) ** 2
        return np.minimum(1 - level[1:] / level[:-1], 0.999)

    @cached_property
    def kept(self) -> Float[np.ndarray, " k"]:
        """Share of the variance that is the data's after each step."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def times(self) -> Float[np.ndarray, " k"]:
        """Time of each step on the straight path, where noise and data are as in its state."""
        a = np.sqrt(self.kept)
        return a / (a + np.sqrt(1 - self.kept))

    @cached_property
    def _posterior(self) -> dict[str, Float[np.ndarray, " k"]]:
        before = np.append(1.0, self.kept[:-1])
        rest = 1 - self.kept
        exact = self.betas * (1 - before) / rest
        return {
            "exact": np.append(exact[1], exact[1:]),  # of step 0 it would be 0
            "large": np.append(exact[1], self.betas[1:]),
            "of_data": self.betas * np.sqrt(before) / rest,
            "of_state": (1 - before) * np.sqrt(1 - self.betas) / rest,
        }

    def told(self, step: Tensor) -> Tensor:
        """Return steps as the network is told them."""
        return step * (1000 / self.steps) if self.rescale else step

    def noised(self, data: Tensor, step: Int[Tensor, " m"], noise: Tensor) -> Tensor:
        """Return the state of data after a step."""
        a, s = (
            self._at(np.sqrt(self.kept), step, data),
            self._at(np.sqrt(1 - self.kept), step, data),
        )
        return a * data + s * noise

    def data_of(self, y: Tensor, step: Int[Tensor, " m"], noise: Tensor) -> Tensor:
        """Return the data of a state whose noise is known."""
        inverse = self._at(np.sqrt(1 / self.kept), step, y)
        return inverse * y - self._at(np.sqrt(1 / self.kept - 1), step, y) * noise

    def reverse(self, noise_of: NoiseOf, y: Tensor, step: Int[Tensor, " m"]) -> Reverse:
        """Return the law of the state before, with the larger of the two usual variances."""
        data = self.data_of(y, step, noise_of(y, self.told(step)))
        variance = self._at(self._posterior["large"], step, y).expand_as(y)
        return Reverse(self._mean(data, y, step), variance, variance.log(), data)

    def sample(
        self,
        noise_of: NoiseOf,
        y: Tensor,
        noises: Iterable[Tensor],
        *,
        first: int | None = None,
        project: Project = lambda y: y,
    ) -> Tensor:
        """Go from a state down to the data, a random step at a time.

        Parameters
        ----------
        noise_of : callable
        y : Tensor, shape (m, *)
            The state at step ``first``, the last one if absent.
        noises : iterable of Tensor
            One for each step; that of step 0 is not used.
        project : callable
            Of states as the network sees them; the authors leave the returned one as it comes.
        """
        for k, noise in zip(range(first or self.steps - 1, -1, -1), noises, strict=False):
            step = torch.full((len(y),), k, device=y.device)
            found = self.reverse(noise_of, project(y), step)
            y = found.mean + (found.variance.sqrt() * noise if k else 0)
        return y

    def bound(
        self,
        noise_of: NoiseOf,
        data: Tensor,
        noises: Iterable[Tensor],
        *,
        lost: float | Tensor = 0.0,
    ) -> Bound:
        """Return the variational bound of each row.

        Parameters
        ----------
        noise_of : callable
        data : Tensor, shape (m, *)
        noises : iterable of Tensor
            One for each step, the last step first; projected where the data is.
        lost : float or Tensor
            Dimensions of each row that the projection took.
        """
        found = []
        for k, noise in zip(range(self.steps - 1, -1, -1), noises, strict=True):
            step = torch.full((len(data),), k, device=data.device)
            y = self.noised(data, step, noise)
            law = self.reverse(noise_of, y, step)
            if k:
                true_log = self._at(np.log(self._posterior["exact"]), step, data)
                gap = (self._mean(data, y, step) - law.mean).square() / law.variance
                ratio = true_log - law.log_variance
                term = 0.5 * _total(-1 - ratio + ratio.exp() + gap)
            else:
                size = data[0].numel() - lost
                error = (data - law.mean).square() / law.variance
                constant = np.log(2 * np.pi) + float(np.log(self._posterior["large"][0]))
                term = 0.5 * (_total(error) + size * constant)
            said = (y - self._at(np.sqrt(self.kept), step, y) * law.data) / self._at(
                np.sqrt(1 - self.kept), step, y
            )
            errors = [(law.data - data).square(), (said - noise).square()]
            found.append([term, *(each.flatten(1).mean(1) for each in errors)])
        terms, data_error, noise_error = (torch.stack(part, 1) for part in zip(*found, strict=True))
        last = float(self.kept[-1])
        spread = torch.full_like(data, float(np.log(1 - last)))
        prior = 0.5 * _total(-1 - spread + spread.exp() + last * data.square())
        return Bound(terms.sum(1) + prior, prior, terms, data_error, noise_error)

    def step_of(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the step, not a whole number, at a time on the straight path."""
        found = np.interp(t.double().cpu().numpy(), self.times[::-1], np.arange(self.steps)[::-1])
        return torch.from_numpy(found).to(t)

    def velocity(self, network: Callable[[Tensor, Tensor, Any], Tensor], told: Any) -> Any:
        """Return the straight flow of a network, for the core's solvers.

        At time t it is asked at the step with as much noise, of ``y / sqrt(t² + (1 - t)²)``; before
        the first such time, and after the last, at the nearest.
        """

        def field(y: Tensor, t: float | Tensor) -> Tensor:
            t = torch.as_tensor(t, dtype=y.dtype, device=y.device)
            t = t.clamp(float(self.times[-1]), float(self.times[0])).expand(len(y))
            step, a = self.told(self.step_of(t)), t.view(-1, *(1,) * (y.ndim - 1))
            length = (a.square() + (1 - a).square()).sqrt()
            return (y - network(y / length, step, told)) / a

        return field

    def _mean(self, data: Tensor, y: Tensor, step: Tensor) -> Tensor:
        own = self._posterior
        return self._at(own["of_data"], step, y) * data + self._at(own["of_state"], step, y) * y

    def _at(self, values: np.ndarray, step: Tensor, like: Tensor) -> Tensor:
        found = torch.from_numpy(values).to(like.device)[step.long()].to(like.dtype)
        return found.view(-1, *(1,) * (like.ndim - 1))


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1)
