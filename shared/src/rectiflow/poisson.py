"""PFGM++: a rectified flow whose noise has heavy tails, between electric fields and diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.paths import Linear, Path
from rectiflow.sources import NORMAL, Normal, Source
from rectiflow.states import State, expand_time

_LINEAR = Linear()


@dataclass(frozen=True)
class StudentT(Source):
    r"""The noise of PFGM++ in D further dimensions: :math:`x_0 = \sqrt{D / 2G}\; g`.

    g is normal over the whole event of N numbers and :math:`G \sim \Gamma(D/2)`. At the noise level
    :math:`\sigma = (1 - t)/t` of the straight path :math:`x_t / t = y + \sigma x_0` then has the
    kernel :math:`p \propto (|x - y|^2 + \sigma^2 D)^{-(N + D)/2}`, whose alignment
    :math:`r = \sigma \sqrt D` is in the scale. D = 1 is PFGM, D = inf the normal law of EDM, and
    all hyper-parameters of diffusion carry over: ``Flow(source=StudentT(128), density=Edm(),
    prediction=Data())`` trains it, and every solver samples it.

    Parameters
    ----------
    dimensions : float, default 128
        D; ``inf`` is :class:`~rectiflow.Normal`.
    clip : float, optional
        The authors' cut of ``B = |x0|² / (|x0|² + D)`` to ``[clip, 1 - clip]`` in training, 1e-3;
        for small D it cuts off the tail.

    References
    ----------
    Xu et al., "PFGM++: Unlocking the Potential of Physics-Inspired Generative Models" (ICML 2023).
    """

    dimensions: float = 128.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if not self.dimensions > 0:
            raise ValueError(f"the dimensions must be positive, got {self.dimensions}.")
        if self.clip is not None and not 0 < self.clip < 0.5:
            raise ValueError(f"clip must lie between 0 and 0.5, got {self.clip}; 1e-3 is theirs.")

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw ``g``, then one ``G`` for each sample, in float64."""
        if isinstance(x, dict):
            raise ValueError("the noise of PFGM++ is of one tensor, got a state of parts.")
        g = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        if math.isinf(self.dimensions):
            return g
        half = torch.full((len(x),), self.dimensions / 2, dtype=torch.float64, device=x.device)
        rate = torch._standard_gamma(half, generator=generator)
        if self.clip is None:
            return g * expand_time((half / rate).sqrt(), g)
        squared = g.double().flatten(1).square().sum(1)
        least = self.clip / (1 - self.clip)
        ratio = (squared / (2 * rate)).clamp(least, 1 / least)
        return g * expand_time((self.dimensions * ratio / squared).sqrt(), g)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``, without the cut."""
        if math.isinf(self.dimensions):
            return NORMAL.log_prob(x)
        d, n = self.dimensions, x[0].numel()
        norm = math.lgamma((n + d) / 2) - math.lgamma(d / 2) - n / 2 * math.log(d * math.pi)
        return norm - (n + d) / 2 * torch.log1p(x.flatten(1).square().sum(1) / d)


def posterior_mean(
    x: Tensor, t: Tensor, reference: Tensor, source: StudentT | Normal, path: Path = _LINEAR
) -> Tensor:
    """Return ``E[x1 | x_t = x]`` if the data were a reference batch: a stable target.

    Parameters
    ----------
    x : Tensor, shape (b, *event)
    t : Tensor, shape (b,)
        Before 1.
    reference : Tensor, shape (n, *event)
    source : Source
        With a density.
    path : Path

    References
    ----------
    Xu et al., "Stable Target Field for Reduced Variance Score Estimation" (ICLR 2023).
    """
    at = path.coeffs(t)
    a, b = (expand_time(value[:, None], x[:, None]) for value in (at.a, at.b))
    noise = (x[:, None] - a * reference) / b  # what it would be of each point, (b, n, *event)
    log_weights = source.log_prob(noise.double().flatten(0, 1)).unflatten(0, (len(x), -1))
    return torch.tensordot(log_weights.softmax(1).to(reference.dtype), reference, 1)
