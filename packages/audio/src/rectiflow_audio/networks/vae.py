"""The autoencoder: log-mel spectrograms to latents a sixteenth of their area, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from rectiflow.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the autoencoder; the defaults are the released ones (55,376,873 parameters)."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the channels, by level
    blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more
    latent_channels: int = 8
    groups: int = 32  # of every normalisation
    mel_mean: float = 0.0  # of the log-mel, taken out before the encoder
    mel_std: float = 1.0


@dataclass(frozen=True)
class Posterior:
    """Gaussian over latents.

    Attributes
    ----------
    mean, logvar : Tensor, shape (b, latent channels, frames / 4, mels / 4)
        The log-variance is clamped to [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Return the standard deviation."""
        return torch.exp(0.5 * self.logvar)

    def sample(
        self, *, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw latents, ``mean + std · noise``."""
        if noise is None:
            noise = torch.randn(
                self.mean.shape,
                generator=generator,
                device=self.mean.device,
                dtype=self.mean.dtype,
            )
        return self.mean + self.std * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Divergence from the unit normal, its mean over the elements of each sample."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).mean(1)


class SpectrogramVae(Pretrained, nn.Module):
    """Encode log-mel spectrograms into latents and decode them.

    Parameters
    ----------
    sizes : VaeConfig, optional
        The released sizes if absent.
    scale_factor : float
        What latents are multiplied by before they flow: one over their standard deviation.

    References
    ----------
    Liu et al., AudioLDM (arXiv 2301.12503); the class is that of latent diffusion, which equals
    ``diffusers``' ``AutoencoderKL``.
    """

    def __init__(self, sizes: VaeConfig | None = None, scale_factor: float = 1.0) -> None:
        super().__init__()
        self.sizes = c = sizes or VaeConfig()
        levels = len(c.multipliers)
        self.autoencoder = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(c.channels * m for m in c.multipliers),
            layers_per_block=c.blocks,
            latent_channels=c.latent_channels,
            norm_num_groups=c.groups,
        )
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an autoencoder from the configuration in ``config.json``."""
        sizes = dict(config["sizes"] or {})
        if "multipliers" in sizes:
            sizes["multipliers"] = tuple(sizes["multipliers"])
        return cls(VaeConfig(**sizes), config["scale_factor"])

    def encode(self, log_mel: Float[Tensor, "b 1 frames mels"]) -> Posterior:
        """Return the posterior over latents; frames and mels must be multiples of 4."""
        x = (log_mel - self.sizes.mel_mean) / self.sizes.mel_std
        moments = self.autoencoder.quant_conv(self.autoencoder.encoder(x))
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of unscaled latents."""
        out = self.autoencoder.decoder(self.autoencoder.post_quant_conv(z))
        return out * self.sizes.mel_std + self.sizes.mel_mean

    def to_latent(
        self,
        log_mel: Float[Tensor, "b 1 frames mels"],
        *,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return scaled latents: the posterior's mean, or a sample of it."""
        posterior = self.encode(log_mel)
        z = posterior.sample(generator=generator) if sample else posterior.mean
        return z * self.scale_factor

    def from_latent(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of scaled latents."""
        return self.decode(z / self.scale_factor)
