"""Discriminators for the training of the autoencoder and of the vocoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

if TYPE_CHECKING:
    from jaxtyping import Float

PERIODS = (2, 3, 5, 7, 11)
PERIOD_CHANNELS = (32, 128, 512, 1024, 1024)
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # n_fft, hop, window
_PATCH_SLOPE, _WAVE_SLOPE = 0.2, 0.1  # of the leaky rectifiers


class PatchDiscriminator(nn.Module):
    """Score overlapping patches of a spectrogram.

    Convolutions 4 x 4: ``layers`` of stride 2 that double the channels, one of stride 1, and one
    to a single channel. The defaults are the released sizes.

    Parameters
    ----------
    channels : int
        After the first convolution; they grow to at most eight times as many.
    layers : int
        Convolutions of stride 2.

    References
    ----------
    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR 2017).
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        if channels < 1 or layers < 1:
            raise ValueError(
                f"channels and layers must be at least 1, got {channels} and {layers}."
            )
        parts: list[nn.Module] = [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(_PATCH_SLOPE)]
        width = channels
        for layer in range(1, layers + 1):
            wide = channels * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            parts += [
                nn.Conv2d(width, wide, 4, stride, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(_PATCH_SLOPE),
            ]
            width = wide
        self.main = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, 1, 1))
        self.apply(_initialise_patches)

    def forward(self, log_mel: Float[Tensor, "b 1 frames mels"]) -> Float[Tensor, "b 1 h w"]:
        """Return the score of each patch: high for real ones."""
        return self.main(log_mel)


def _initialise_patches(module: nn.Module) -> None:
    """Draw weights as the authors do: convolutions around 0, scales around 1."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


@dataclass(frozen=True)
class Judgement:
    """What one discriminator says of waves.

    Attributes
    ----------
    score : Tensor, shape (b, ...)
        Near 1 for real, near 0 for made ones.
    features : tuple of Tensor
        The output of each layer, to be matched; the score is the last.
    """

    score: Tensor
    features: tuple[Tensor, ...]


class PeriodDiscriminator(nn.Module):
    """Score a wave that is folded into columns of one period.

    Parameters
    ----------
    period : int
        Samples per row.
    channels : sequence of int
        After each convolution 5 x 1 of stride 3; the last has stride 1.

    References
    ----------
    Kong et al., HiFi-GAN (NeurIPS 2020), section 2.3.
    """

    def __init__(self, period: int, channels: Sequence[int] = PERIOD_CHANNELS) -> None:
        super().__init__()
        if period < 1:
            raise ValueError(f"period must be at least 1, got {period}.")
        self.period = period
        widths = (1, *channels)
        last = len(channels) - 1
        self.convs = nn.ModuleList(
            weight_norm(
                nn.Conv2d(widths[i], widths[i + 1], (5, 1), (3 if i < last else 1, 1), (2, 0))
            )
            for i in range(len(channels))
        )
        self.conv_post = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, wave: Float[Tensor, "b n"]) -> Judgement:
        """Return the score and the features of waves."""
        return _judge(self.fold(wave), self.convs, self.conv_post)

    def fold(self, wave: Float[Tensor, "b n"]) -> Float[Tensor, "b 1 rows period"]:
        """Return rows of one period; the end is filled up by reflection."""
        missing = -wave.shape[-1] % self.period
        if missing:
            wave = F.pad(wave.unsqueeze(1), (0, missing), mode="reflect").squeeze(1)
        return wave.view(len(wave), 1, -1, self.period)


class ResolutionDiscriminator(nn.Module):
    """Score the magnitudes of a wave's short-time Fourier transform.

    Parameters
    ----------
    n_fft, hop, window : int
        Of the transform, in samples.
    channels : int
        After each convolution.

    References
    ----------
    Jang et al., UnivNet (Interspeech 2021); Lee et al., BigVGAN (ICLR 2023), section 3.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int, window: int, channels: int = 32) -> None:
        super().__init__()
        if not 0 < hop <= window <= n_fft:
            raise ValueError(
                f"a transform needs hop <= window <= n_fft, got {hop}, {window} and {n_fft}."
            )
        self.n_fft, self.hop = n_fft, hop
        # BigVGAN's discriminators look through a rectangular window.
        self.register_buffer("window", torch.ones(window), persistent=False)
        strides = (1, 2, 2, 2)
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(1 if i == 0 else channels, channels, (3, 9), (1, s), (1, 4)))
            for i, s in enumerate(strides)
        )
        self.convs.append(weight_norm(nn.Conv2d(channels, channels, 3, 1, 1)))
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, 1, 1))

    def forward(self, wave: Float[Tensor, "b n"]) -> Judgement:
        """Return the score and the features of waves."""
        return _judge(self.magnitude(wave).unsqueeze(1), self.convs, self.conv_post)

    def magnitude(self, wave: Float[Tensor, "b n"]) -> Float[Tensor, "b bins frames"]:
        """Return the magnitudes; frame i begins at sample ``i hop``, less half of what overlaps."""
        edge = (self.n_fft - self.hop) // 2
        padded = F.pad(wave.unsqueeze(1).float(), (edge, edge), mode="reflect").squeeze(1)
        spectrum = torch.stft(
            padded,
            self.n_fft,
            self.hop,
            len(self.window),
            self.window,
            center=False,
            return_complex=True,
        )
        return spectrum.abs()


class WaveDiscriminator(nn.Module):
    """Discriminators of several periods and of several resolutions, side by side.

    Parameters
    ----------
    periods : sequence of int
        In samples; primes see different columns.
    resolutions : sequence of (n_fft, hop, window)
        In samples.
    period_channels : sequence of int
        Of each :class:`PeriodDiscriminator`.
    resolution_channels : int
        Of each :class:`ResolutionDiscriminator`.
    """

    def __init__(
        self,
        periods: Sequence[int] = PERIODS,
        resolutions: Sequence[Sequence[int]] = RESOLUTIONS,
        period_channels: Sequence[int] = PERIOD_CHANNELS,
        resolution_channels: int = 32,
    ) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            [PeriodDiscriminator(period, period_channels) for period in periods]
        )
        for n_fft, hop, window in resolutions:
            self.discriminators.append(
                ResolutionDiscriminator(n_fft, hop, window, resolution_channels)
            )

    def forward(self, wave: Float[Tensor, "b n"]) -> list[Judgement]:
        """Return the judgement of each discriminator."""
        return [discriminator(wave) for discriminator in self.discriminators]


def _judge(x: Tensor, convs: nn.ModuleList, conv_post: nn.Module) -> Judgement:
    features = []
    for conv in convs:
        x = F.leaky_relu(conv(x), _WAVE_SLOPE)
        features.append(x)
    score = conv_post(x)
    return Judgement(score.flatten(1), (*features, score))
