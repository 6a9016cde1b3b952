"""What flows: latents of a whole trajectory, from noise; the authors' diffusion as such a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.fields import VelocityField
from rectiflow.flow import Flow
from rectiflow.guidance import guided_velocity
from rectiflow.time_density import TimeDensity, Uniform
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def latent_flow(*, density: TimeDensity | None = None, **parts: Any) -> Flow:
    """Return the rectified flow of latents: straight from unit noise at t = 0 to them at t = 1.

    ``parts`` are further ones of :class:`~rectiflow.Flow`: ``source``, ``coupling``, ``premetric``.
    """
    return Flow(density=density or Uniform(), **parts)


@dataclass(frozen=True)
class Diffusion:
    """The authors' diffusion in discrete steps, and the straight flow that it is.

    A latent at step k is ``sqrt(abar) z + sqrt(1 - abar) noise``. Divided by the sum of the two
    factors it lies on the straight path at ``t = a / (a + s)``, where the velocity is the
    difference of what the network takes for data and noise.

    Parameters
    ----------
    steps : int
        Of training.
    beta_start, beta_end : float
        Noise rates, between which their roots are spaced evenly.

    References
    ----------
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022);
    Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021).
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    @cached_property
    def betas(self) -> Float[np.ndarray, " k"]:
        """Noise rates, float64."""
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.steps) ** 2

    @cached_property
    def alphas_cumprod(self) -> Float[np.ndarray, " k"]:
        """Share of the variance that is the data's after each step."""
        return np.cumprod(1 - self.betas)

    @cached_property
    def times(self) -> Float[np.ndarray, " k"]:
        """Time of each step on the straight path; step 0 is nearest to the data."""
        a = np.sqrt(self.alphas_cumprod)
        return a / (a + np.sqrt(1 - self.alphas_cumprod))

    def ddim_steps(self, count: int) -> Int[np.ndarray, " c"]:
        """Return the steps that the authors sample with DDIM, from the data on."""
        return np.arange(0, self.steps, self.steps // count) + 1

    def grid(self, count: int) -> list[float]:
        """Return times for the core's solvers: those of DDIM from the noise on, then the data."""
        chosen = self.ddim_steps(count)
        return [*self.times[chosen[::-1]].tolist(), float(self.times[0])]

    def step_of(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return the step, not a whole number, at a time on the straight path."""
        found = np.interp(t.double().cpu().numpy(), self.times[::-1], np.arange(self.steps)[::-1])
        return torch.from_numpy(found).to(t)

    def start(self, noise: Tensor, count: int) -> Tensor:
        """Return the state at the first time of :meth:`grid`, from unit noise."""
        first = self.alphas_cumprod[self.ddim_steps(count)[-1]]
        return noise / (first**0.5 + (1 - first) ** 0.5)

    def velocity(self, network: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, Any], Tensor]:
        """Turn ``network(x, k, cond)``, which tells the noise, into a velocity."""

        def field(x: Tensor, t: Tensor, cond: Any) -> Tensor:
            step = self.step_of(t)
            shape = (-1, *(1,) * (x.ndim - 1))
            a, s = t.reshape(shape), 1 - t.reshape(shape)
            length = (a.square() + s.square()).sqrt()
            noise = network(x / length, step, cond)
            return ((x - s * noise) / a) - noise

        return field

    def noised(
        self, z: Float[Tensor, b * g], generator: torch.Generator, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw steps, and noise unless it is known; return the latents there, steps and noise."""
        step = torch.randint(self.steps, (len(z),), generator=generator, device=z.device)
        share = torch.from_numpy(self.alphas_cumprod).to(z)[step]
        share = share.reshape(-1, *(1,) * (z.ndim - 1))
        if noise is None:
            noise = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
        return share.sqrt() * z + (1 - share).sqrt() * noise, step.to(z), noise


def guided_field(
    network: Callable[..., Tensor], cond: dict[str, Tensor], guidance: float, **how: Any
) -> VelocityField:
    """Return the velocity under a condition, away from the same without the prompt's numbers.

    Parameters
    ----------
    network : callable
        ``network(x, t, cond)``, a velocity.
    cond : dict
        With ``numbers``, where guidance is wanted.
    guidance : float
        Weight; 1 is none.
    **how
        How it acts, as for :func:`rectiflow.guidance.guided_velocity`.
    """
    null = {name: value for name, value in cond.items()}
    if guidance != 1.0:
        null["numbers"] = torch.full_like(cond["numbers"], torch.nan)
    return guided_velocity(network, cond, null, guidance, **how)
