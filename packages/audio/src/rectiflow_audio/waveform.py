"""From a generated spectrogram to a waveform: by the mixture's phase, a vocoder, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rectiflow_audio.masking import apply_mask, griffin_lim, mel_ratio_mask

if TYPE_CHECKING:
    from rectiflow_audio.frontend import LogMel
    from rectiflow_audio.networks.vocoder import BigVgan

MASK_EXPONENT = 1.0
"""Of :class:`Masking`; generated targets are off by more than true ones, and 1 forgives most."""

MASK_HEADROOM = 0.5
"""Of :class:`Masking`, about the error of a generated log-mel."""


@dataclass(frozen=True)
class Generated:
    """What sampling left of one window, a row for each estimate.

    Attributes
    ----------
    target : Tensor, shape (b, frames, mels)
        Log-mel of the estimates, decoded.
    mixture : Tensor, shape (b, frames, mels)
        Log-mel of their mixtures, encoded and decoded alike: what the codec changes in both
        cancels in their ratio.
    wave : Tensor, shape (b, n)
        The mixtures' waves at 16 kHz.
    log_mel : LogMel
        The front end.
    vocoder : BigVgan, optional
        If the checkpoint has one.
    generator : torch.Generator
        For invented phases.
    is_shared : bool
        The rows are parts of one mixture and leave a residual: what several claim, they share.
    """

    target: Tensor
    mixture: Tensor
    wave: Tensor
    log_mel: LogMel
    vocoder: BigVgan | None
    generator: torch.Generator
    is_shared: bool = False


class Waveform(Protocol):
    """A way to make waves of generated spectrograms."""

    keeps_phase: bool
    """Whether waves are aligned with the mixture sample by sample."""

    def __call__(self, generated: Generated) -> Tensor:
        """Return waves ``(b, n)`` as long as the mixture."""
        ...


@dataclass(frozen=True)
class Masking:
    """Scale the mixture's own spectrum by the share the target has in it.

    Sample-aligned, needs no vocoder, and can add nothing that is not in the mixture.

    Parameters
    ----------
    exponent, headroom : float
        As for :func:`~rectiflow_audio.masking.mel_ratio_mask`.
    """

    exponent: float = MASK_EXPONENT
    headroom: float = MASK_HEADROOM
    keeps_phase = True

    def __call__(self, generated: Generated) -> Tensor:
        """Return the masked mixture."""
        mask = mel_ratio_mask(
            generated.target,
            generated.mixture,
            generated.log_mel,
            self.exponent,
            self.headroom,
        )
        if generated.is_shared:
            mask = mask / mask.sum(0, keepdim=True).clamp(min=1)
        wanted = generated.wave.shape[-1] // generated.log_mel.config.hop + 1
        # The networks see whole multiples of 32 frames, the spectrum has one more.
        missing = wanted - mask.shape[-1]
        mask = torch.cat([mask, mask[..., -1:].expand(*mask.shape[:-1], missing)], dim=-1)
        return apply_mask(generated.wave, mask, generated.log_mel)


@dataclass(frozen=True)
class Vocoding:
    """Make the wave anew with the checkpoint's vocoder, as the authors do; not sample-aligned."""

    keeps_phase = False

    def __call__(self, generated: Generated) -> Tensor:
        """Return the vocoder's wave.

        Raises
        ------
        ValueError
            When the checkpoint has no vocoder.
        """
        if generated.vocoder is None:
            raise ValueError(
                "these weights have no vocoder; expected one for waveform=Vocoding(). Use "
                "Masking(), or weights that have one, such as the authors'."
            )
        wave = generated.vocoder(generated.target.transpose(1, 2))
        return _fit(wave, generated.wave.shape[-1])


@dataclass(frozen=True)
class GriffinLim:
    """Invent the phase; the last resort.

    Parameters
    ----------
    iterations : int
        Rounds of fast Griffin-Lim.
    """

    iterations: int = 32
    keeps_phase = False

    def __call__(self, generated: Generated) -> Tensor:
        """Return waves with the generated magnitudes."""
        return griffin_lim(
            generated.target,
            generated.log_mel,
            iterations=self.iterations,
            samples=generated.wave.shape[-1],
            generator=generated.generator,
        )


def _fit(wave: Tensor, samples: int) -> Tensor:
    """Cut or zero-pad to a length."""
    return torch.nn.functional.pad(wave, (0, samples - wave.shape[-1]))
