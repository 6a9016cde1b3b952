"""Diffusion networks as the start of a rectified flow: their denoiser is a velocity."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from rectiflow.paths import Linear, Path, VariancePreserving
from rectiflow.states import expand_time

_EARLIEST = 1e-5


class Preconditioning(NamedTuple):
    """EDM's factors of a noise level: ``D(x) = skip x + out F(scaled x, told)``."""

    skip: Tensor
    out: Tensor
    scaled: Tensor
    told: Tensor

    @classmethod
    def at(cls, sigma: Tensor, sigma_data: float = 0.5) -> Preconditioning:
        """Return the factors at noise levels.

        References
        ----------
        Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models"
        (NeurIPS 2022), Table 1.
        """
        total = sigma**2 + sigma_data**2
        root = total.rsqrt()
        return cls(sigma_data**2 / total, sigma * sigma_data * root, root, sigma.log() / 4)


class EdmVelocity(nn.Module):
    """The straight flow of an EDM network, to sample, to make pairs of, or to train further.

    At our time t the noise level is ``(1 - t) / t`` and the network sees ``x / t``.

    Parameters
    ----------
    network : nn.Module
        EDM's F: ``network(x, told)`` or ``network(x, told, cond)``, with ``told = log(sigma) / 4``.
    sigma_data : float, default 0.5
        Standard deviation of its data.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.2.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network, self.sigma_data = network, sigma_data

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the velocity at times ``t (b,)``; the ends count as 1e-5 away from them."""
        t = t.clamp(_EARLIEST, 1 - _EARLIEST)
        f = Preconditioning.at((1 - t) / t, self.sigma_data)
        skip, out, scaled, time = (expand_time(v, x) for v in (f.skip, f.out, f.scaled, t))
        seen = x / time
        extra = () if cond is None else (cond,)
        data = skip * seen + out * self.network(scaled * seen, f.told, *extra)
        return (data - x) / (1 - time)


class NoiseVelocity(nn.Module):
    """The straight flow of a network that was trained to tell the noise (DDPM).

    Parameters
    ----------
    network : nn.Module
        ``network(x, k)`` or ``network(x, k, cond)``, with the level k from 0 at the data to
        ``levels`` at the noise.
    path : Path, default :class:`~rectiflow.paths.VariancePreserving`
        Of its training.
    levels : float, default 999
    """

    def __init__(self, network: nn.Module, path: Path | None = None, levels: float = 999.0) -> None:
        super().__init__()
        self.network, self.path, self.levels = network, path or VariancePreserving(), levels
        first = self.path.coeffs(0.0)
        self.earliest = max(first.a / (first.a + first.b), _EARLIEST)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """Return the velocity at times ``t (b,)``; earlier ones than the path has count as its."""
        t = t.clamp(self.earliest, 1 - _EARLIEST)
        s = self.path.t_of_lam(Linear().lam(t.double()))
        at = self.path.coeffs(s)
        length = expand_time(at.a + at.b, x)
        extra = () if cond is None else (cond,)
        noise = self.network(length * x, (self.levels * (1 - s)).to(t), *extra)
        return (x - noise) / expand_time(t, x)
