"""From waveforms to log-mel spectrograms: level, rate, filter bank, and the authors' own reading.

A waveform is a float tensor of shape ``(..., samples)``; a log-mel spectrogram has shape
``(..., frames, n_mels)``, time first. Frame ``i`` is centred on sample ``i · hop``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float

SAMPLE_RATE = 16_000
"""Hz; the rate at which all networks of this package work."""

WINDOW_SECONDS = 10.24
"""The length of sound the released networks were trained on."""

WINDOW_SAMPLES = round(WINDOW_SECONDS * SAMPLE_RATE)
"""The same in samples, 163,840: 1024 frames."""

_PEAK = 0.5  # of a normalised waveform
_PEAK_EPS = 1e-8  # keeps silence silent
_OFFICIAL_LEAST = 100  # samples; the authors refuse this many and fewer
_CROSSINGS, _ROLLOFF = 6, 0.99  # of the filter that changes rates, torchaudio's defaults
_LARGEST_KERNEL = 10_000_000  # polyphase coefficients, 40 MB; beyond it they are made as needed
_DIRECT_BLOCK = 16_384  # output samples at a time when they are


@dataclass(frozen=True)
class MelConfig:
    """Sizes of the spectrogram; the defaults are the released ones."""

    sample_rate: int = SAMPLE_RATE  # Hz
    n_fft: int = 1024  # samples, also the length of the Hann window
    hop: int = 160  # samples, 10 ms
    n_mels: int = 64
    fmin: float = 0.0  # Hz
    fmax: float = 8000.0  # Hz
    floor: float = 1e-5  # below which magnitudes are not told apart; ln 1e-5 = -11.5129


def mel_filters(config: MelConfig, norm: str | None = "slaney") -> Float[Tensor, "mels bins"]:
    """Return triangular filters, evenly spaced on Slaney's mel scale.

    Parameters
    ----------
    config : MelConfig
        The sizes.
    norm : str, optional
        ``"slaney"`` gives each unit area, None the height 1.

    Returns
    -------
    Tensor, shape (n_mels, n_fft // 2 + 1)
        Weights of the magnitude bins, float32.
    """
    from torchaudio.functional import melscale_fbanks

    c = config
    bins = c.n_fft // 2 + 1
    with torch.device("cpu"):  # it looks at its numbers, which networks without memory lack
        filters = melscale_fbanks(
            bins, c.fmin, c.fmax, c.n_mels, c.sample_rate, norm=norm, mel_scale="slaney"
        )
    return filters.T.contiguous()


class LogMel(nn.Module):
    r"""Log-mel spectrogram of a waveform.

    .. math:: \ln \max\bigl(F \, |\mathrm{STFT}(w)|, \; \text{floor}\bigr)

    with ``F`` of :func:`mel_filters`, a periodic Hann window and reflected ends. The waveform is
    clipped to [-1, 1] first. There is nothing to train. Works in float32 also under autocast,
    since the logarithm of a half-precision spectrum is noise.

    Parameters
    ----------
    config : MelConfig, optional
        The released sizes if absent.
    """

    filters: Tensor
    window: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        super().__init__()
        self.config = config or MelConfig()
        self.register_buffer("filters", mel_filters(self.config), persistent=False)
        self.register_buffer("window", torch.hann_window(self.config.n_fft), persistent=False)

    def forward(self, wave: Float[Tensor, "*b n"]) -> Float[Tensor, "*b frames mels"]:
        """Return the log-mel spectrogram, ``n // hop + 1`` frames.

        Raises
        ------
        ValueError
            If the waveform is no longer than half a window.
        """
        return self.compress(self.magnitude(wave))

    def magnitude(self, wave: Float[Tensor, "*b n"]) -> Float[Tensor, "*b bins frames"]:
        """Return the magnitude spectrum of the clipped waveform, without floor."""
        return self.stft(wave.clamp(-1, 1)).abs()

    def stft(self, wave: Float[Tensor, "*b n"]) -> Float[Tensor, "*b bins frames"]:
        """Return the complex spectrum; nothing is clipped."""
        c = self.config
        if wave.shape[-1] <= c.n_fft // 2:
            raise ValueError(
                f"the waveform is too short, got {wave.shape[-1]} samples; expected more than "
                f"half a window, {c.n_fft // 2}. Pad it with zeros first."
            )
        rows = self._full_precision(wave).reshape(-1, wave.shape[-1])
        spectrum = torch.stft(
            F.pad(rows, (c.n_fft // 2, c.n_fft // 2), mode="reflect"),
            c.n_fft,
            c.hop,
            window=self.window.to(rows.dtype),
            center=False,
            return_complex=True,
        )
        return spectrum.reshape(*wave.shape[:-1], *spectrum.shape[-2:])

    def compress(self, magnitude: Float[Tensor, "*b bins frames"]) -> Float[Tensor, "*b frames m"]:
        """Return the log-mel spectrogram of a magnitude spectrum."""
        magnitude = self._full_precision(magnitude)
        with torch.autocast(magnitude.device.type, enabled=False):
            mel = magnitude.transpose(-1, -2) @ self.filters.to(magnitude.dtype).T
        return mel.clamp(min=self.config.floor).log()

    @staticmethod
    def _full_precision(x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Level:
    """What :func:`normalise` did to a waveform.

    Attributes
    ----------
    mean, gain : Tensor, shape (..., 1)
        ``normalised = (wave - mean) · gain``, row by row.
    """

    mean: Tensor
    gain: Tensor

    def restore(self, wave: Float[Tensor, "*b n"], *, offset: bool = False) -> Tensor:
        """Scale a waveform back to the loudness of the original.

        Parameters
        ----------
        wave : Tensor, shape (..., samples)
            In the normalised domain: the waveform itself, or a part separated from it.
        offset : bool
            Also add the mean. A constant is no sound and belongs to no source, so parts are
            restored without it.

        Returns
        -------
        Tensor, shape (..., samples)
            ``wave / gain``, plus the mean if asked.
        """
        loud = wave / self.gain
        return loud + self.mean if offset else loud


def normalise(wave: Float[Tensor, "*b n"]) -> tuple[Float[Tensor, "*b n"], Level]:
    """Take the mean out of each row and bring its peak to one half.

    Parameters
    ----------
    wave : Tensor, shape (..., samples)
        Any level; silence stays silent.

    Returns
    -------
    Tensor, shape (..., samples)
        ``0.5 · (w - mean) / (max|w - mean| + 1e-8)``.
    Level
        What undoes it.
    """
    mean = wave.mean(-1, keepdim=True)
    centred = wave - mean
    gain = _PEAK / (centred.abs().amax(-1, keepdim=True) + _PEAK_EPS)
    return centred * gain, Level(mean, gain)


def resample(wave: Float[Tensor, "*b n"], from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate with a band-limited (windowed sinc) filter.

    Parameters
    ----------
    wave : Tensor, shape (..., n)
        The waveform.
    from_rate, to_rate : int
        Hz.

    Returns
    -------
    Tensor, shape (..., ceil(n · to_rate / from_rate))
        torchaudio's default filter: 6 zero crossings, roll-off 0.99, Hann window. For rates with
        hardly a common divisor, whose table of coefficients would fill the memory, the same
        filter is evaluated as it goes.

    Raises
    ------
    ValueError
        If a rate is not positive.
    """
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(
            f"sample rates must be positive, got {from_rate} and {to_rate} Hz; expected two "
            "positive integers. Check the header of the file."
        )
    if from_rate == to_rate:
        return wave
    divisor = math.gcd(from_rate, to_rate)
    if from_rate * to_rate // divisor**2 > _LARGEST_KERNEL:
        return _resample_direct(wave, from_rate // divisor, to_rate // divisor)
    from torchaudio.functional import resample as polyphase

    return polyphase(wave, from_rate, to_rate)


def resample_reach(from_rate: int, to_rate: int) -> int:
    """How many input samples to either side an output sample of :func:`resample` depends on."""
    return math.ceil(_CROSSINGS * from_rate / (min(from_rate, to_rate) * _ROLLOFF)) + 1


def _resample_direct(wave: Tensor, old: int, new: int) -> Tensor:
    """Evaluate the filter of :func:`resample` at each pair of samples; the rates are coprime."""
    n, cutoff = wave.shape[-1], min(old, new) * _ROLLOFF
    reach = resample_reach(old, new)
    taps = torch.arange(-reach, reach + 1, device=wave.device)
    padded = F.pad(wave, (reach, reach))
    blocks = []
    for start in range(0, -(-n * new // old), _DIRECT_BLOCK):
        stop = min(start + _DIRECT_BLOCK, -(-n * new // old))
        k = torch.arange(start, stop, device=wave.device)
        index = (k * old).div(new, rounding_mode="floor")[:, None] + taps
        lag = (index.double() / old - k[:, None].double() / new) * cutoff
        hann = torch.cos(lag.clamp(-_CROSSINGS, _CROSSINGS) * (math.pi / 2 / _CROSSINGS)) ** 2
        weights = (torch.sinc(lag) * hann * (cutoff / old)).to(wave.dtype)
        inside = (index + reach).clamp(max=padded.shape[-1] - 1)
        blocks.append((padded[..., inside] * weights).sum(-1))
    return torch.cat(blocks, -1)


def read_official(
    path: str | Path, generator: torch.Generator | None = None
) -> Float[Tensor, " samples"]:
    """Read a file exactly as the authors' script does, random crop and all.

    A file longer than 10.24 s is cropped at a uniformly drawn place; then it is resampled, its
    first channel kept, normalised, and padded with zeros to 163,840 samples. Use it to reproduce
    published numbers; :func:`rectiflow_audio.io.read_audio` loses nothing.

    Parameters
    ----------
    path : str or Path
        The sound file.
    generator : torch.Generator, optional
        Draws the crop; required for files longer than 10.24 s.

    Returns
    -------
    Tensor, shape (163840,)
        16 kHz, peak 0.5.

    Raises
    ------
    rectiflow_audio.io.AudioFileError
        If the file cannot be read or has 100 samples or fewer, before or after resampling.
    ValueError
        If the file is longer than 10.24 s and no generator is given.
    """
    from rectiflow_audio.io import AudioFileError, read_audio

    audio = read_audio(path, shortest=0.0)
    wave, rate = torch.from_numpy(audio.samples), audio.sample_rate
    length = int(rate * WINDOW_SECONDS)
    if wave.shape[-1] > length:
        if generator is None:
            raise ValueError(
                f"{path} is longer than {WINDOW_SECONDS} s, got {audio.seconds:.2f} s and no "
                "generator; expected one to draw the crop. Pass generator=torch.Generator()."
            )
        places = wave.shape[-1] - length
        start = int(torch.rand((), generator=generator, device=generator.device) * places)
        wave = wave[:, start : start + length]
    shortest = wave.shape[-1]
    wave = resample(wave, rate, SAMPLE_RATE)[0]
    shortest = min(shortest, wave.shape[-1])
    if shortest <= _OFFICIAL_LEAST:
        raise AudioFileError(
            path,
            f"it holds {shortest} samples",
            f"more than {_OFFICIAL_LEAST}",
            "Use a longer recording.",
        )
    wave, _ = normalise(wave)
    return F.pad(wave, (0, max(0, WINDOW_SAMPLES - wave.shape[-1])))[:WINDOW_SAMPLES]
