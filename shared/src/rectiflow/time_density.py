"""Laws of the training time, in our direction: t = 0 is noise, t = 1 is data.

Papers that put noise at 1 write ``s = 1 - t``. Densities named after them keep the paper's
parameters, so that a published configuration can be typed in, and return our t.

Longer than 400 lines because every published law stands here, beside the shifts that papers name in
the same breath; each is short.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor

Level = TypeVar("Level", float, Tensor)


class TimeDensity(ABC):
    """A distribution on ``[0, 1]``, sampled through its inverse distribution function."""

    @abstractmethod
    def icdf(self, u: Tensor) -> Tensor:
        """Return the time below which a fraction ``u`` of the mass lies; grows with ``u``."""

    @abstractmethod
    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log-density at ``t``; ``-inf`` outside the support."""

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        stratified: bool = True,
    ) -> Tensor:
        """Draw ``n`` times.

        Parameters
        ----------
        n : int
        generator : torch.Generator, optional
        device, dtype : optional
            Of the result; float32 by default.
        stratified : bool, default True
            Draw one time from each of ``n`` slices of equal probability, in random order. Each
            time alone has the same law as without; a batch varies less.

        Returns
        -------
        Tensor, shape (n,)
        """
        # The inverse is steep where the density is low: take it in float64 and round once.
        exact = torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64
        u = torch.rand(n, generator=generator, device=device, dtype=exact)
        if stratified:
            order = torch.randperm(n, generator=generator, device=device)
            u = (order + u) / n
        return self.icdf(u).to(dtype or torch.float32)


@dataclass(frozen=True)
class Uniform(TimeDensity):
    """Uniform on ``[low, high]``.

    Parameters
    ----------
    low, high : float, default 0 and 1
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"times must lie in [0, 1], got low={self.low}, high={self.high}; "
                "expected 0 <= low < high <= 1"
            )

    def icdf(self, u: Tensor) -> Tensor:
        """Return ``low + (high - low) u``."""
        return self.low + (self.high - self.low) * u

    def log_prob(self, t: Tensor) -> Tensor:
        """Return ``-log(high - low)`` inside."""
        inside = (t >= self.low) & (t <= self.high)
        return _inside(inside, torch.full_like(t, -math.log(self.high - self.low)))


@dataclass(frozen=True)
class PiecewiseUniform(TimeDensity):
    """Uniform between successive edges, with a mass of its own on each piece.

    A mixture of uniform laws is one: half of all times from ``[0.6, 1]`` and half from ``[0, 1]``
    is ``PiecewiseUniform((0, 0.6, 1), (0.3, 0.7))``.

    Parameters
    ----------
    edges : sequence of float
        Increasing times in [0, 1].
    masses : sequence of float
        Positive, one per piece; their sum is taken as 1.
    """

    edges: Sequence[float]
    masses: Sequence[float]

    def __post_init__(self) -> None:
        edges, masses = list(self.edges), list(self.masses)
        bounded = all(0 <= low < high <= 1 for low, high in pairwise(edges))
        if len(edges) != len(masses) + 1 or not bounded or not min(masses, default=0) > 0:
            raise ValueError(
                f"a piecewise density needs increasing edges in [0, 1] and a positive mass between "
                f"each two, got edges={edges}, masses={masses}"
            )

    def icdf(self, u: Tensor) -> Tensor:
        """Return the time on the line between the edges whose mass reaches ``u``."""
        edges, below = self._tables(u)
        piece = torch.searchsorted(below, u, right=True).clamp(1, len(below) - 1) - 1
        part = (u - below[piece]) / (below[piece + 1] - below[piece])
        return edges[piece] + (edges[piece + 1] - edges[piece]) * part

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log of mass over width of the piece; an edge belongs to the piece above."""
        edges, below = self._tables(t)
        piece = torch.searchsorted(edges, t, right=True).clamp(1, len(edges) - 1) - 1
        height = below.diff() / edges.diff()
        return _inside((t >= edges[0]) & (t <= edges[-1]), height[piece].log())

    def _tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Edges, and the mass below each."""
        edges, masses = (torch.as_tensor(list(x)).to(like) for x in (self.edges, self.masses))
        below = torch.cat([masses.new_zeros(1), masses.cumsum(0)])
        return edges, below / below[-1]


@dataclass(frozen=True)
class LogitNormal(TimeDensity):
    """Noise level ``s = sigmoid(mean + std z)`` with standard-normal z, and ``t = 1 - s``.

    Parameters
    ----------
    mean : float, default 0
        In noise time, as published: positive puts more weight on noisy times (small t).
    std : float, default 1

    References
    ----------
    Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis"
    (ICML 2024), Eq. (19).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"the standard deviation must be positive, got {self.std}")

    def icdf(self, u: Tensor) -> Tensor:
        """Return ``sigmoid(std ndtri(u) - mean)``."""
        return torch.sigmoid(self.std * torch.special.ndtri(u) - self.mean)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log-density, which vanishes at both ends."""
        inside = (t > 0) & (t < 1)
        safe = torch.where(inside, t, 0.5)
        z = (torch.logit(safe) + self.mean) / self.std
        volume = (safe * (1 - safe)).log() + math.log(self.std * math.sqrt(2 * math.pi))
        return _inside(inside, -0.5 * z.square() - volume)


@dataclass(frozen=True)
class Edm(LogitNormal):
    """EDM's ``log sigma ~ N(mean, std²)`` seen on the straight path, ``t = 1 / (1 + sigma)``.

    Since ``s = sigma / (1 + sigma)`` this is a logit-normal law; the defaults are EDM's
    ``P_mean`` and ``P_std``.

    References
    ----------
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
    (NeurIPS 2022), Table 1.
    """

    mean: float = -1.2
    std: float = 1.2


@dataclass(frozen=True)
class Mode(TimeDensity):
    """SD3's heavy-tailed density with its mode at the middle.

    ``t = u + scale (cos²(pi u / 2) - 1 + u)`` for uniform u.

    Parameters
    ----------
    scale : float, default 1.29
        From -1 to ``2 / (pi - 2) = 1.7519``; 0 is uniform, positive favours the middle.

    References
    ----------
    Esser et al. (ICML 2024), Eq. (20).
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise ValueError(
                f"the mode density exists for scales from -1 to 1.7519, got {self.scale}"
            )

    def icdf(self, u: Tensor) -> Tensor:
        """Return the map of the class formula."""
        return u + self.scale * (torch.cos(math.pi / 2 * u).square() - 1 + u)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return ``-log dt/du``, with u found by bisection."""
        low, high = torch.zeros_like(t), torch.ones_like(t)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.icdf(middle) < t
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        u = (low + high) / 2
        rate = 1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * u))
        return _inside((t >= 0) & (t <= 1), -rate.log())


@dataclass(frozen=True)
class CosMap(TimeDensity):
    """The cosine noise schedule as a density, ``2 / (pi (1 - 2t + 2t²))``.

    References
    ----------
    Esser et al. (ICML 2024), Eq. (21).
    """

    def icdf(self, u: Tensor) -> Tensor:
        """Return ``tan / (1 + tan)`` of ``pi u / 2``."""
        sin, cos = torch.sin(math.pi / 2 * u), torch.sin(math.pi / 2 * (1 - u))
        return sin / (sin + cos)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log of the class formula."""
        density = 2 / (math.pi * (1 - 2 * t + 2 * t * t))
        return _inside((t >= 0) & (t <= 1), density.log())


@dataclass(frozen=True)
class UShaped(TimeDensity):
    """More weight on both ends: density proportional to ``exp(a t) + exp(a (1 - t))``.

    Parameters
    ----------
    a : float, default 4
        Positive; the larger, the more the ends count.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), Sec. 4.1; as in the
    official code, whose density is the one above.
    """

    a: float = 4.0

    def __post_init__(self) -> None:
        if not self.a > 0:
            raise ValueError(f"the U-shape needs a > 0, got {self.a}; use Uniform() for a flat law")

    def icdf(self, u: Tensor) -> Tensor:
        """Return ``1/2 + asinh((2u - 1) sinh(a/2)) / a``."""
        return (0.5 + torch.asinh((2 * u - 1) * math.sinh(self.a / 2)) / self.a).clamp(0, 1)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return ``log(a cosh(a (t - 1/2)) / (2 sinh(a/2)))``."""
        height = self.a / (2 * math.sinh(self.a / 2))
        density = height * torch.cosh(self.a * (t - 0.5))
        return _inside((t >= 0) & (t <= 1), density.log())


@dataclass(frozen=True)
class Beta(TimeDensity):
    """The beta distribution of t.

    Parameters
    ----------
    alpha, beta : float
        Positive; the mean of t is ``alpha / (alpha + beta)``.
    """

    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(
                f"beta parameters must be positive, got alpha={self.alpha}, beta={self.beta}"
            )

    def icdf(self, u: Tensor) -> Tensor:
        """Return the inverse of the regularised incomplete beta function, computed on the host."""
        from scipy.special import betaincinv

        t = betaincinv(self.alpha, self.beta, u.detach().double().cpu().numpy())
        return torch.as_tensor(t).to(u)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log-density."""
        total = math.lgamma(self.alpha + self.beta)
        norm = total - math.lgamma(self.alpha) - math.lgamma(self.beta)
        one = torch.xlogy(torch.tensor(self.alpha - 1, dtype=t.dtype), t.clamp(0, 1))
        other = torch.xlogy(torch.tensor(self.beta - 1, dtype=t.dtype), (1 - t).clamp(0, 1))
        return _inside((t >= 0) & (t <= 1), norm + one + other)


@dataclass(frozen=True)
class Discrete(TimeDensity):
    """Uniform on the ``k`` starting times ``0, 1/k, ..., (k-1)/k`` of a k-step sampler.

    Parameters
    ----------
    k : int
        1 for one-step distillation, where t is always 0.
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"a discrete law needs at least one time, got k={self.k}")

    def icdf(self, u: Tensor) -> Tensor:
        """Return ``floor(k u) / k``."""
        return (self.k * u).floor().clamp(max=self.k - 1) / self.k

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the log-probability ``-log k`` of one of the times."""
        index = self.k * t
        near = (index - index.round()).abs() < 64 * self.k * torch.finfo(t.dtype).eps
        among = near & (index.round() >= 0) & (index.round() < self.k)
        return _inside(among, torch.full_like(t, -math.log(self.k)))


@dataclass(frozen=True)
class Shifted(TimeDensity):
    """Another density with its noise levels shifted by :func:`sd3_shift`.

    Parameters
    ----------
    density : TimeDensity
    alpha : float
        Above 1 moves times toward noise; 3 in SD3 at 1024².
    """

    density: TimeDensity
    alpha: float

    def __post_init__(self) -> None:
        _check_shift(self.alpha)

    def icdf(self, u: Tensor) -> Tensor:
        """Return the shifted time of the inner density."""
        return sd3_shift(self.density.icdf(u), self.alpha)

    def log_prob(self, t: Tensor) -> Tensor:
        """Return the inner log-density plus the log of the change of volume."""
        inside = (t >= 0) & (t <= 1)
        safe = t.clamp(0, 1)
        inner = sd3_shift(safe, 1 / self.alpha)
        volume = math.log(self.alpha) - 2 * torch.log1p((self.alpha - 1) * safe)
        return _inside(inside, self.density.log_prob(inner) + volume)


def sd3_shift(t: Level, alpha: float) -> Level:
    """Return the time whose noise is ``alpha`` times as large relative to the signal.

    ``t / (alpha - (alpha - 1) t)``, which is ``alpha s / (1 + (alpha - 1) s)`` for the noise level
    ``s = 1 - t``; the log-SNR moves by ``-2 log alpha``. Inverse: ``1 / alpha``.

    Parameters
    ----------
    t : float or Tensor
        Our time.
    alpha : float
        Positive; ``sqrt(m / n)`` to carry a schedule from n to m pixels or tokens.

    References
    ----------
    Esser et al. (ICML 2024), Eq. (23).

    Examples
    --------
    >>> sd3_shift(0.5, 3.0)
    0.25
    """
    _check_shift(alpha)
    return t / (alpha - (alpha - 1) * t)


def dynamic_shift(
    tokens: int, *, low: tuple[int, float] = (256, 0.5), high: tuple[int, float] = (4096, 1.15)
) -> float:
    """Return the shift ``alpha = exp(mu)`` for a number of tokens, as in FLUX.

    ``mu`` is linear in the number of tokens; ``sd3_shift(t, alpha)`` then equals the exponential
    form ``e^mu / (e^mu + 1/s - 1)``.

    Parameters
    ----------
    tokens : int
        Length of the latent sequence.
    low, high : (int, float), default (256, 0.5) and (4096, 1.15)
        Two points ``(tokens, mu)`` on the line.
    """
    (n0, mu0), (n1, mu1) = low, high
    if n0 == n1:
        raise ValueError(f"the two anchors must have different token counts, got {n0} twice")
    return math.exp(mu0 + (mu1 - mu0) * (tokens - n0) / (n1 - n0))


def diffusers_schedule(steps: int, shift: float = 1.0, *, train_steps: int = 1000) -> list[float]:
    """Return the times that diffusers' ``FlowMatchEulerDiscreteScheduler`` yields.

    That scheduler stores its largest and smallest noise levels after shifting them and shifts the
    grid between them once more. Checkpoints sampled with it are reproduced by this grid, not by
    one that is shifted once.

    Parameters
    ----------
    steps : int
    shift : float, default 1
    train_steps : int, default 1000
        Number of training noise levels, the smallest being ``1 / train_steps``.

    Returns
    -------
    list of float
        ``steps + 1`` increasing times that end in exactly 1.
    """
    if steps < 1 or train_steps < 1:
        raise ValueError(
            f"a schedule needs at least one step, got steps={steps}, train_steps={train_steps}"
        )
    first, last = 0.0, sd3_shift(1 - 1 / train_steps, shift)
    gap = (last - first) / max(steps - 1, 1)
    return [*(sd3_shift(first + i * gap, shift) for i in range(steps)), 1.0]


def _check_shift(alpha: float) -> None:
    if not alpha > 0:
        raise ValueError(f"a time shift must be positive, got {alpha}")


def _inside(inside: Tensor, value: Tensor) -> Tensor:
    return torch.where(inside, value, -math.inf)
