"""Sounds to try things on, of this package's own making."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rectiflow_audio.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


SECONDS = 4.0

_HERE = Path(__file__).parent

RAIN = _HERE / "rain.flac"
"""File of :func:`rain`."""

CLOCK_TICK = _HERE / "clock_tick.flac"
"""File of :func:`clock_tick`."""

KICK_DRUM = _HERE / "kick_drum.flac"
"""File of :func:`kick_drum`."""

CAPTIONS = {RAIN: "rain is falling", CLOCK_TICK: "a clock is ticking", KICK_DRUM: "a kick drum"}
"""What is heard in each file."""

_PEAK = 0.5


def rain(seconds: float = SECONDS, *, seed: int = 0) -> Float[Tensor, " n"]:
    """Make rain: a wash of noise that falls off below 1 kHz, and single drops.

    ``write_audio(RAIN, rain(), SAMPLE_RATE)`` makes the file that ships; the same holds of the
    other sounds.
    """
    generator = torch.Generator().manual_seed(seed)
    n = round(seconds * SAMPLE_RATE)
    wash = 0.08 * _tilted(torch.randn(n, generator=generator), corner=1000.0)
    drops = torch.zeros(n)
    count = round(60 * seconds)
    starts = torch.randint(n, (count,), generator=generator).tolist()
    pitches = 2000 + 4000 * torch.rand(count, generator=generator)
    levels = 0.3 * torch.rand(count, generator=generator).pow(3)
    for start, pitch, level in zip(starts, pitches.tolist(), levels.tolist(), strict=True):
        _add(drops, level * _decaying(pitch, 0.003, 0.02), start)
    return _to_peak(wash + drops)


def clock_tick(seconds: float = SECONDS, *, period: float = 0.5) -> Float[Tensor, " n"]:
    """Make a clock: a click every half second, every other one a little lower."""
    n = round(seconds * SAMPLE_RATE)
    out = torch.zeros(n)
    for i in range(math.ceil(seconds / period)):
        factor = 1.0 if i % 2 == 0 else 0.85
        partials = ((2350.0, 1.0, 0.006), (3900.0, 0.7, 0.004), (5600.0, 0.4, 0.002))
        for pitch, level, decay in partials:
            _add(
                out, level * _decaying(factor * pitch, decay, 0.05), round(i * period * SAMPLE_RATE)
            )
    return _to_peak(out)


def kick_drum(seconds: float = SECONDS, *, period: float = 0.6) -> Float[Tensor, " n"]:
    """Make kicks of a bass drum: a tone that falls from 160 to 50 Hz, with a short click."""
    n = round(seconds * SAMPLE_RATE)
    out = torch.zeros(n)
    t = torch.arange(round(0.4 * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 50 + 110 * torch.exp(-t / 0.03)
    phase = 2 * torch.pi * pitch.double().cumsum(0) / SAMPLE_RATE
    kick = phase.sin().float() * torch.exp(-t / 0.12)
    kick[:80] += 0.3 * _decaying(1200.0, 0.001, 0.005)
    for i in range(math.ceil(seconds / period)):
        _add(out, kick, round(i * period * SAMPLE_RATE))
    return _to_peak(out)


def _tilted(wave: Float[Tensor, " n"], *, corner: float) -> Float[Tensor, " n"]:
    """Take 6 dB per octave away below a frequency in Hz."""
    spectrum = torch.fft.rfft(wave)
    ratio = torch.linspace(0, SAMPLE_RATE / 2, len(spectrum)) / corner
    return torch.fft.irfft(spectrum * ratio / (1 + ratio.square()).sqrt(), n=len(wave))


def _decaying(pitch: float, decay: float, seconds: float) -> Float[Tensor, " n"]:
    """Return a tone of so many Hz that fades with a time constant in seconds."""
    t = torch.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (2 * torch.pi * pitch * t).sin() * torch.exp(-t / decay)


def _add(out: Float[Tensor, " n"], sound: Float[Tensor, " m"], start: int) -> None:
    """Add a sound at a sample, as far as there is room."""
    end = min(start + len(sound), len(out))
    out[start:end] += sound[: end - start]


def _to_peak(wave: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return wave * (_PEAK / wave.abs().max())
