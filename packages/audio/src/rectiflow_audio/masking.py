"""Waveforms from generated spectrograms, with the phase of the mixture where there is one.

A separated sound is part of its mixture, so the mixture's own short-time spectrum, scaled by a mask
between 0 and 1, is aligned with the original sample by sample; no vocoder is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rectiflow_audio.frontend import LogMel, MelConfig, mel_filters

if TYPE_CHECKING:
    from jaxtyping import Complex, Float
    from torch import Tensor

WIENER_EXPONENT = 2.0
"""Of a mask from magnitudes: 2 is the Wiener filter, and best on real mixtures.

With the true target's mel, over 120 mixtures of two classes at 0 dB, the mean SI-SDR improvement of
:func:`mel_ratio_mask` is 11.6, 15.0, 15.9, 16.0 and 15.6 dB for exponents 0.5, 1, 1.5, 2 and 3;
:func:`mel_wiener_mask` with the true residual's mel too gives 16.1 dB at 2. A Wiener mask of
the true bins, without bands, gives 18.0 dB. Where the target's log-mel is off by 0.5 at random
(4.3 dB, correlated over 5 frames and bands), exponent 2 gives 8.0 dB, but with a headroom of
0.5 or 1 it gives 12.2 or 12.7 dB.
"""

_MOMENTUM = 0.99  # of fast Griffin-Lim, Perraudin et al. (2013)
_INVERSION_STEPS = 50  # multiplicative updates from bands to bins; more change nothing audible
_TINY = 1e-12  # under divisions by magnitudes


def mel_ratio_mask(
    target: Float[Tensor, "*b frames mels"],
    mixture: Float[Tensor, "*b frames mels"],
    log_mel: LogMel,
    exponent: float = WIENER_EXPONENT,
    headroom: float = 0.0,
) -> Float[Tensor, "*b bins frames"]:
    r"""Mask of what the target makes up of each band of the mixture.

    .. math:: \min(e^h \, T / M, 1)^p

    with ``T`` and ``M`` the mel magnitudes of target and mixture, interpolated linearly between
    the centres of the bands.

    Parameters
    ----------
    target, mixture : Tensor, shape (..., frames, n_mels)
        Log-mel spectrograms in the same level.
    log_mel : LogMel
        The front end that made them.
    exponent : float, default 2
        ``p``; larger ones suppress more.
    headroom : float, default 0
        ``h``, in units of the log-mel: about the error of a generated target. Bands that belong
        to the target pass whole although it was guessed too low; the price is less suppression.

    Returns
    -------
    Tensor, shape (..., bins, frames)
        In [0, 1], for :func:`apply_mask`.

    Raises
    ------
    ValueError
        If the exponent is not positive or the spectrograms have other bands than the front end.
    """
    _check(exponent, log_mel.config, target, mixture)
    share = (exponent * (target - mixture + headroom)).clamp(max=0).exp()
    return _bands_to_bins(share, log_mel.config)


def mel_wiener_mask(
    target: Float[Tensor, "*b frames mels"],
    residual: Float[Tensor, "*b frames mels"],
    log_mel: LogMel,
    exponent: float = WIENER_EXPONENT,
) -> Float[Tensor, "*b bins frames"]:
    r"""Mask of the target against the rest, when both were generated.

    .. math:: T^p / (T^p + R^p)

    Parameters
    ----------
    target, residual : Tensor, shape (..., frames, n_mels)
        Log-mel spectrograms of the target and of everything else, in the same level.
    log_mel : LogMel
        The front end that made them.
    exponent : float, default 2
        ``p``; 2 is the Wiener filter of power spectra.

    Returns
    -------
    Tensor, shape (..., bins, frames)
        In [0, 1]; the masks of target and residual sum to 1.

    Raises
    ------
    ValueError
        If the exponent is not positive or the spectrograms have other bands than the front end.
    """
    _check(exponent, log_mel.config, target, residual)
    return _bands_to_bins(torch.sigmoid(exponent * (target - residual)), log_mel.config)


def apply_mask(
    mixture: Float[Tensor, "*b n"],
    mask: Float[Tensor, "*b bins frames"],
    log_mel: LogMel | None = None,
) -> Float[Tensor, "*b n"]:
    """Scale the short-time spectrum of a mixture and return to the waveform.

    Parameters
    ----------
    mixture : Tensor, shape (..., n)
        The waveform, longer than half a window.
    mask : Tensor, shape (..., bins, frames)
        Factor of each bin, of as many frames as the spectrum of the mixture has. Leading
        dimensions broadcast: one mask for both channels has shape (1, bins, frames).
    log_mel : LogMel, optional
        The front end, for its window and hop; the released one if absent.

    Returns
    -------
    Tensor, shape (..., n)
        Aligned with the mixture; a mask of ones gives the mixture back.

    Raises
    ------
    ValueError
        If the mask has another number of bins or frames than the spectrum.
    """
    log_mel = log_mel or LogMel().to(mixture.device)
    spectrum = log_mel.stft(mixture)
    if mask.shape[-2:] != spectrum.shape[-2:]:
        raise ValueError(
            f"the mask does not fit the mixture, got {tuple(mask.shape[-2:])} bins and frames; "
            f"expected {tuple(spectrum.shape[-2:])}. Make it from the log-mel of this waveform."
        )
    masked = spectrum * mask.to(spectrum.real.dtype)
    return inverse_stft(masked, mixture.shape[-1], log_mel).to(mixture.dtype)


def inverse_stft(
    spectrum: Complex[Tensor, "*b bins frames"], samples: int, log_mel: LogMel
) -> Float[Tensor, "*b n"]:
    """Return the waveform whose :meth:`LogMel.stft` is nearest to a spectrum."""
    c = log_mel.config
    rows = spectrum.reshape(-1, *spectrum.shape[-2:])
    window = log_mel.window.to(spectrum.real.dtype)
    wave = torch.istft(rows, c.n_fft, c.hop, window=window, length=samples)
    return wave.reshape(*spectrum.shape[:-2], samples)


def griffin_lim(
    spectrogram: Float[Tensor, "*b frames mels"],
    log_mel: LogMel,
    *,
    iterations: int = 32,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*b n"]:
    """Find a waveform with a given log-mel spectrogram, its phase invented.

    The last resort, when there is neither a vocoder nor a mixture: the sound is hollow and no
    measure that knows phase means anything.

    Parameters
    ----------
    spectrogram : Tensor, shape (..., frames, n_mels)
        Log-mel.
    log_mel : LogMel
        The front end that made it.
    iterations : int, default 32
        Rounds of fast Griffin-Lim.
    samples : int, optional
        Length of the result, ``(frames - 1) · hop`` if absent.
    generator : torch.Generator, optional
        Draws the first phases.

    Returns
    -------
    Tensor, shape (..., samples)
        The waveform.

    References
    ----------
    Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013).
    """
    magnitude = _bins_from_mel(spectrogram.exp(), log_mel.filters).transpose(-1, -2)
    samples = samples or (magnitude.shape[-1] - 1) * log_mel.config.hop
    turns = torch.rand(
        magnitude.shape, generator=generator, device=magnitude.device, dtype=magnitude.dtype
    )
    phase, previous = torch.polar(torch.ones_like(turns), 2 * math.pi * turns), None
    for _ in range(iterations):
        rebuilt = log_mel.stft(inverse_stft(magnitude * phase, samples, log_mel))
        rebuilt = _frames_of(rebuilt, magnitude.shape[-1])
        pushed = rebuilt if previous is None else rebuilt + _MOMENTUM * (rebuilt - previous)
        phase, previous = pushed / (pushed.abs() + _TINY), rebuilt
    return inverse_stft(magnitude * phase, samples, log_mel)


def mixture_consistency(
    estimates: Float[Tensor, "*b k n"],
    mixture: Float[Tensor, "*b n"],
    weights: Float[Tensor, "*b k"] | None = None,
) -> Float[Tensor, "*b k n"]:
    r"""Change estimates as little as possible so that they sum to the mixture.

    .. math:: \hat s_i + w_i \Bigl(m - \sum_j \hat s_j\Bigr), \quad \sum_i w_i = 1

    Parameters
    ----------
    estimates : Tensor, shape (..., k, n)
        The sources, which together are everything in the mixture.
    mixture : Tensor, shape (..., n)
        Their sum as it was recorded.
    weights : Tensor, shape (..., k), optional
        Share of what is missing that each source takes, divided by their sum; equal if absent.

    Returns
    -------
    Tensor, shape (..., k, n)
        The projection.

    Raises
    ------
    ValueError
        If the lengths differ, or weights are negative or all zero.

    References
    ----------
    Wisdom et al., "Differentiable consistency constraints for improved deep speech enhancement"
    (2019), equation 8.
    """
    if estimates.shape[-1] != mixture.shape[-1]:
        raise ValueError(
            f"estimates and mixture differ in length, got {estimates.shape[-1]} and "
            f"{mixture.shape[-1]} samples; expected the same. Cut or pad the estimates."
        )
    if weights is None:
        weights = estimates.new_ones(estimates.shape[-2])
    total = weights.sum(-1, keepdim=True)
    if (weights < 0).any() or (total <= 0).any():
        raise ValueError(
            f"weights must not be negative or all zero, got {weights.tolist()}; expected shares "
            "of the difference. Leave them out for equal shares."
        )
    missing = mixture - estimates.sum(-2)
    return estimates + (weights / total)[..., None] * missing[..., None, :]


def _check(exponent: float, config: MelConfig, *spectrograms: Tensor) -> None:
    """Refuse exponents and spectrograms that no mask can be made of."""
    if not exponent > 0:
        raise ValueError(
            f"exponent must be positive, got {exponent}; expected 1 for magnitudes or 2 for powers."
        )
    bands = [s.shape[-1] for s in spectrograms]
    if any(b != config.n_mels for b in bands):
        raise ValueError(
            f"the last dimension must be the mel bands, got {bands}; expected {config.n_mels}. "
            "Log-mels have shape (..., frames, n_mels)."
        )


def _bands_to_bins(bands: Tensor, config: MelConfig) -> Tensor:
    """Interpolate between the centres of bands, (..., frames, mels) to (..., bins, frames).

    Triangles of height 1 are the weights of a linear interpolation between their peaks; bins
    outside all of them take the nearest band.
    """
    weights = mel_filters(config, norm=None).to(bands)
    covered = weights.sum(0).nonzero()[:, 0]
    weights[0, : covered[0]] = 1
    weights[-1, covered[-1] + 1 :] = 1
    return (bands @ (weights / weights.sum(0))).transpose(-1, -2)


def _bins_from_mel(mel: Tensor, filters: Tensor) -> Tensor:
    """Find non-negative bins with given mel magnitudes, by multiplicative least squares."""
    filters = filters.to(mel.dtype)
    numerator = mel @ filters
    bins = numerator / (filters.sum(1) @ filters).clamp(min=_TINY)
    for _ in range(_INVERSION_STEPS):
        bins = bins * numerator / ((bins @ filters.T) @ filters).clamp(min=_TINY)
    return bins


def _frames_of(spectrum: Tensor, frames: int) -> Tensor:
    """Cut or zero-pad to a number of frames."""
    return torch.nn.functional.pad(spectrum, (0, frames - spectrum.shape[-1]))
