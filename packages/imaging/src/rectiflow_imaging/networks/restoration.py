"""Networks that restore: an estimate with a flow from it (PMRF), and residual diffusion (RDDM)."""

from __future__ import annotations

import torch
from rectiflow import Pretrained
from rectiflow.inverse import Blur
from torch import Tensor, nn

from rectiflow_imaging.networks.prior import ImageUNet
from rectiflow_imaging.operators import gaussian_kernel
from rectiflow_imaging.rddm import ResidualDiffusion


class _Restorer(Pretrained, nn.Module):
    """What both know: how images in [-1, 1] come to be degraded."""

    channels: int
    blur: float
    noise: float

    def degraded(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return images ``(b, c, s, s)`` blurred, and with fresh noise."""
        if self.blur > 0:
            x = Blur(gaussian_kernel(self.blur))(x)
        drawn = torch.randn(x.shape, generator=generator, device=generator.device)
        return x + self.noise * drawn.to(x)


class MeanFlowNetwork(_Restorer):
    """PMRF: the posterior mean of an image, and the velocity of the flow from there.

    Parameters
    ----------
    blur : float
        Deviation of the blur in pixels; 0 is none.
    noise : float
        Deviation of the noise, of values in [-1, 1].
    sigma : float, default 0.05
        Of the noise around the estimate where the flow begins; images here span 2, not 1.
    side, channels, width, multipliers
        Of both networks, as for :class:`ImageUNet`.
    """

    def __init__(
        self,
        blur: float = 0.0,
        noise: float = 0.3,
        sigma: float = 0.05,
        side: int = 32,
        channels: int = 1,
        width: int = 24,
        multipliers: tuple[int, ...] = (1, 2, 4),
    ) -> None:
        super().__init__()
        self.blur, self.noise, self.sigma, self.channels = blur, noise, sigma, channels
        sizes = side, channels, width, multipliers
        self.mean, self.velocity = ImageUNet(*sizes), ImageUNet(*sizes)

    def estimate(self, degraded: Tensor) -> Tensor:
        """Return the posterior mean, within [-1, 1]."""
        return (degraded + self.mean(degraded, degraded.new_zeros(len(degraded)))).clamp(-1, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity, which is not told what is degraded."""
        return self.velocity(x, t)


class ResidualNetwork(_Restorer):
    """RDDM: residual and noise of a point, told what is degraded.

    Parameters
    ----------
    blur, noise, side, channels, width, multipliers
        As for :class:`MeanFlowNetwork`.
    """

    def __init__(
        self,
        blur: float = 0.0,
        noise: float = 0.3,
        side: int = 32,
        channels: int = 1,
        width: int = 24,
        multipliers: tuple[int, ...] = (1, 2, 4),
    ) -> None:
        super().__init__()
        self.blur, self.noise, self.channels = blur, noise, channels
        self.net = ImageUNet(side, 2 * channels, width, multipliers)
        self.diffusion = ResidualDiffusion()

    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Return residual and noise at steps ``k (b,)`` of a point beside what is degraded."""
        residual, noise = self.net(x, k / self.diffusion.steps).chunk(2, 1)
        return residual, noise
