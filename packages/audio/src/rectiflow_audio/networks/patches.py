"""A codec without weights: patches of the spectrogram's compressed magnitudes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow_audio.networks.vae import LOGVAR_RANGE, Posterior

if TYPE_CHECKING:
    from jaxtyping import Float

FLOOR = math.log(1e-5)
"""Lowest log-mel of the front end; what decodes below it, negative magnitudes too, is that."""


class PatchCodec(Pretrained, nn.Module):
    """Take the place of :class:`~rectiflow_audio.networks.vae.SpectrogramVae`, losing nothing.

    A mean over what is possible, which a flow's first step tells, is blurred by a learned decoder
    in ways that nobody chose; here it is the mean of the magnitudes themselves.

    Parameters
    ----------
    patch : int, default 4
        Frames and bands that make one latent of ``patch²`` channels.
    exponent : float, default 0.3
        Of the magnitudes: below 1, soft sounds count.
    scale_factor : float, default 1
        What latents are multiplied by before they flow.
    """

    def __init__(self, patch: int = 4, exponent: float = 0.3, scale_factor: float = 1.0) -> None:
        super().__init__()
        self.patch, self.exponent = patch, exponent
        self.scale_factor: Tensor
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))

    def encode(self, log_mel: Float[Tensor, "b 1 frames mels"]) -> Posterior:
        """Return latents as a posterior of no width; frames and mels in multiples of a patch."""
        mean = F.pixel_unshuffle((self.exponent * log_mel).exp(), self.patch)
        return Posterior(mean, torch.full_like(mean, LOGVAR_RANGE[0]))

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of unscaled latents."""
        magnitudes = F.pixel_shuffle(z, self.patch)
        return magnitudes.clamp_min(math.exp(self.exponent * FLOOR)).log() / self.exponent

    def to_latent(
        self, log_mel: Float[Tensor, "b 1 frames mels"], **sampling: Any
    ) -> Float[Tensor, "b c h w"]:
        """Return scaled latents; there is but one sample of them, however it is asked for."""
        return self.encode(log_mel).mean * self.scale_factor

    def from_latent(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of scaled latents."""
        return self.decode(z / self.scale_factor)
