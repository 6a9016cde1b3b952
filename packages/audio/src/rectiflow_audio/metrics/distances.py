"""Distances of an estimate to its reference; none needs a network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rectiflow_audio.frontend import LogMel

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

LEAST_POWER = 1e-10
"""Of a waveform and of a bin of a spectrum; the floor of the log-mel, 1e-5, is its root."""


def sdr(estimate: Float[Tensor, "*b n"], reference: Float[Tensor, "*b n"]) -> Float[Tensor, " *b"]:
    r"""Signal-to-distortion ratio in decibel, as in AudioSep and DCASE 2024 Task 9.

    .. math:: 10 \log_{10} \frac{\max(\overline{r^2}, 10^{-10})}
        {\max(\overline{(e - r)^2}, 10^{-10})}

    Not that of BSS-eval, which forgives a filter. The improvement SDRi is ``sdr(estimate,
    reference) - sdr(mixture, reference)``.

    Parameters
    ----------
    estimate, reference : Tensor, shape (..., n)
        Waveforms in the same level.

    Returns
    -------
    Tensor, shape (...)
        Decibel; higher is better.

    Raises
    ------
    ValueError
        If the lengths differ.

    Examples
    --------
    >>> reference = torch.tensor([0.1, -0.1, 0.1, -0.1])
    >>> round(float(sdr(0.9 * reference, reference)), 3)
    20.0
    """
    _same_length(estimate, reference)
    power = reference.square().mean(-1).clamp(min=LEAST_POWER)
    return 10 * torch.log10(power / (estimate - reference).square().mean(-1).clamp(min=LEAST_POWER))


def si_sdr(
    estimate: Float[Tensor, "*b n"], reference: Float[Tensor, "*b n"]
) -> Float[Tensor, " *b"]:
    r"""Scale-invariant signal-to-distortion ratio in decibel; no mean is taken out.

    .. math:: a = \frac{\epsilon + r \cdot e}{r \cdot r + \epsilon}, \qquad
        10 \log_{10} \frac{\epsilon + |a r|^2}{\epsilon + |e - a r|^2}

    with the machine epsilon of the dtype. The improvement SI-SDRi is the difference to the
    mixture's.

    Parameters, result and errors are those of :func:`sdr`; the level does not matter.

    References
    ----------
    Le Roux et al., "SDR – half-baked or well done?" (ICASSP 2019). Agrees with torchmetrics'
    ``scale_invariant_signal_distortion_ratio``.
    """
    _same_length(estimate, reference)
    eps = torch.finfo(estimate.dtype).eps
    scale = (eps + (reference * estimate).sum(-1, keepdim=True)) / (
        reference.square().sum(-1, keepdim=True) + eps
    )
    projected = scale * reference
    error = (estimate - projected).square().sum(-1)
    return 10 * torch.log10((eps + projected.square().sum(-1)) / (eps + error))


def log_spectral_distance(
    estimate: Float[Tensor, "*b n"],
    reference: Float[Tensor, "*b n"],
    log_mel: LogMel | None = None,
) -> Float[Tensor, " *b"]:
    r"""Log-spectral distance (LSD), blind to phase.

    .. math:: \frac{1}{T} \sum_t \sqrt{ \frac{1}{F} \sum_f \left(
        \log_{10} |E_{tf}|^2 - \log_{10} |R_{tf}|^2 \right)^2 }

    Powers are clamped to at least 1e-10, so that digital silence has a distance.

    Parameters
    ----------
    estimate, reference : Tensor, shape (..., n)
        Waveforms in the same level, longer than half a window.
    log_mel : LogMel, optional
        The front end, for its window and hop; the released one if absent.

    Returns
    -------
    Tensor, shape (...)
        In powers of ten; 0 is best.

    Raises
    ------
    ValueError
        If the lengths differ or are too short.
    """
    _same_length(estimate, reference)
    stft = (log_mel or LogMel().to(estimate.device)).stft
    powers = [stft(wave).abs().square().clamp(min=LEAST_POWER) for wave in (estimate, reference)]
    difference = powers[0].log10() - powers[1].log10()
    return difference.square().mean(-2).sqrt().mean(-1)


def mel_log_spectral_distance(
    estimate: Float[Tensor, "*b frames mels"], reference: Float[Tensor, "*b frames mels"]
) -> Float[Tensor, " *b"]:
    """Return the log-spectral distance of mel bands, with the floor of the log-mel.

    Parameters
    ----------
    estimate, reference : Tensor, shape (..., frames, n_mels)
        Log-mel spectrograms, natural logarithm of magnitudes.

    Returns
    -------
    Tensor, shape (...)
        In powers of ten, of power: a distance of 0.1 is 1 dB everywhere.

    Raises
    ------
    ValueError
        If the numbers of frames or bands differ.
    """
    _same_spectrogram(estimate, reference)
    difference = (estimate - reference) * (2 / math.log(10))
    return difference.square().mean(-1).sqrt().mean(-1)


def mel_l1(
    estimate: Float[Tensor, "*b frames mels"], reference: Float[Tensor, "*b frames mels"]
) -> Float[Tensor, " *b"]:
    """Return the mean absolute difference of log-mel spectrograms, as autoencoders are trained on.

    Raises
    ------
    ValueError
        If the numbers of frames or bands differ.
    """
    _same_spectrogram(estimate, reference)
    return (estimate - reference).abs().mean((-2, -1))


def _same_length(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape[-1] != reference.shape[-1]:
        raise ValueError(
            f"estimate and reference must have one length, got {estimate.shape[-1]} and "
            f"{reference.shape[-1]} samples. Cut or pad the estimate first."
        )


def _same_spectrogram(estimate: Tensor, reference: Tensor) -> None:
    if estimate.shape[-2:] != reference.shape[-2:]:
        raise ValueError(
            "log-mel spectrograms must have the same frames and bands, got "
            f"{tuple(estimate.shape[-2:])} and {tuple(reference.shape[-2:])}. Cut the longer one."
        )
