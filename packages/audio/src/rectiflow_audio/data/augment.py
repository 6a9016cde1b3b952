"""Changes to a clip that leave its caption true, and its place in a window.

Every function is pure: what is random comes from the generator it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

QUIET = 0.01
"""A crop below this share of its clip's power holds nothing to learn from."""

_CROPS = 4  # places tried before the loudest sample decides
_KNOTS = 6  # of the equaliser, evenly spaced in log frequency
_LOWEST_HZ = 60.0


@dataclass(frozen=True)
class Augment:
    """Random speed and pitch, equaliser and polarity of a clip.

    Parameters
    ----------
    speed : float, default 0.15
        Largest relative change of speed and pitch together.
    equaliser_db : float, default 6.0
        Largest gain, up or down, of the smooth random frequency response.
    probability : float, default 0.8
        Of each of the two.

    Examples
    --------
    >>> wave = torch.sin(torch.arange(1600) / 5)
    >>> changed = Augment()(wave, torch.Generator().manual_seed(0))
    >>> 1600 / 1.16 < len(changed) < 1600 / 0.84
    True
    """

    speed: float = 0.15
    equaliser_db: float = 6.0
    probability: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.speed < 1:
            raise ValueError(f"speed must lie in [0, 1), got {self.speed}; 0.15 changes by 15 %.")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {self.probability}.")

    def __call__(
        self, wave: Float[Tensor, " n"], generator: torch.Generator
    ) -> Float[Tensor, " m"]:
        """Return the changed clip; its length changes with its speed."""
        speed, filtered, flipped = torch.rand(3, generator=generator).tolist()
        if self.speed and speed < self.probability:
            wave = change_speed(wave, _spread(1.0, self.speed, generator))
        if self.equaliser_db and filtered < self.probability:
            gains = self.equaliser_db * (2 * torch.rand(_KNOTS, generator=generator) - 1)
            wave = equalise(wave, gains)
        return -wave if flipped < 0.5 else wave


def change_speed(wave: Float[Tensor, " n"], factor: float) -> Float[Tensor, " m"]:
    """Play a wave ``factor`` times as fast, by linear interpolation; its pitch rises with it.

    Examples
    --------
    >>> change_speed(torch.arange(8.0), 2.0)
    tensor([0.5000, 2.5000, 4.5000, 6.5000])
    """
    length = max(1, round(wave.shape[-1] / factor))
    return functional.interpolate(wave[None, None], size=length, mode="linear")[0, 0]


def equalise(
    wave: Float[Tensor, " n"], gains_db: Float[Tensor, " k"], *, sample_rate: int = 16_000
) -> Float[Tensor, " n"]:
    """Filter with a smooth zero-phase response through gains at evenly spaced log frequencies.

    Parameters
    ----------
    wave : Tensor, shape (n,)
        At ``sample_rate``.
    gains_db : Tensor, shape (k,)
        Decibel at k >= 2 frequencies from 60 Hz to half the sample rate; linear in log frequency
        between them, constant below.
    """
    n = wave.shape[-1]
    size = _smooth_length(n)  # a prime length takes ten times as long
    spectrum = torch.fft.rfft(wave, n=size)
    frequency = torch.linspace(0, sample_rate / 2, spectrum.shape[-1])
    octaves = (frequency.clamp_min(_LOWEST_HZ) / _LOWEST_HZ).log2()
    position = octaves / octaves[-1].clamp_min(1e-6) * (len(gains_db) - 1)
    left = position.long().clamp_max(len(gains_db) - 2)
    gains = torch.lerp(gains_db[left], gains_db[left + 1], position - left)
    return torch.fft.irfft(spectrum * 10 ** (gains / 20), n=size)[:n]


def fit(
    wave: Float[Tensor, " n"], length: int, generator: torch.Generator, *, loop: float = 0.0
) -> Float[Tensor, " length"]:
    """Bring a clip to the length of a window.

    A longer one is cropped where it is not silent. A shorter one is put at a random place, with
    zeros around it, or repeated.

    Parameters
    ----------
    wave : Tensor, shape (n,)
        Not constant.
    length : int
        Samples of the window.
    generator : torch.Generator
        On the CPU.
    loop : float, default 0.0
        Probability that a shorter clip is repeated.
    """
    missing = length - wave.shape[-1]
    if missing <= 0:
        return crop(wave, length, generator, quiet=QUIET)
    if float(torch.rand((), generator=generator)) < loop:
        phase = _integer(wave.shape[-1], generator)
        return wave.roll(phase).repeat(-(-length // wave.shape[-1]))[:length]
    before = _integer(missing + 1, generator)
    return functional.pad(wave, (before, missing - before))


def crop(
    wave: Float[Tensor, " n"], length: int, generator: torch.Generator, *, quiet: float = 0.0
) -> Float[Tensor, " length"]:
    """Cut a piece out of a clip at a uniform place where something is heard.

    A few places are tried; if all are too quiet, the piece holds the loudest sample.

    Parameters
    ----------
    wave : Tensor, shape (n,)
        A clip of at most ``length`` samples is returned whole.
    length : int
        Samples of the piece.
    generator : torch.Generator
        On the CPU.
    quiet : float, default 0.0
        A piece whose variance is not above this share of the clip's is too quiet.
    """
    extra = wave.shape[-1] - length
    if extra <= 0:
        return wave
    threshold = quiet * float(wave.var(correction=0))
    for _ in range(_CROPS):
        start = _integer(extra + 1, generator)
        piece = wave[start : start + length]
        if float(piece.var(correction=0)) > threshold:
            return piece
    loudest = int((wave - wave.mean()).abs().argmax())
    start = min(max(loudest - _integer(length, generator), 0), extra)
    return wave[start : start + length]


def _smooth_length(n: int) -> int:
    """Next length of the form m · 2^k with m at most 8."""
    step = 1 << max(n.bit_length() - 3, 0)
    return -(-n // step) * step


def _integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def _spread(centre: float, width: float, generator: torch.Generator) -> float:
    return centre + width * (2 * float(torch.rand((), generator=generator)) - 1)
