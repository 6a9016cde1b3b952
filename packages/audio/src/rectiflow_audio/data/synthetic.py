"""Made-up sounds with captions, for trials and tests where no recordings are at hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import drawn_pairs
from rectiflow.storage.table import write_rows

from rectiflow_audio.data.prepare import prepare
from rectiflow_audio.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    from jaxtyping import Float
    from rectiflow.conditioning import TextEncoder
    from torch import Tensor

_PEAK = 0.5
_FADE = 160  # samples at both ends, 10 ms: no click that the caption does not tell of


def tone(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw a steady tone of 200 to 2000 Hz with two weaker harmonics."""
    phase = 2 * math.pi * _log_uniform(200, 2000, generator) * _seconds(n)
    return torch.sin(phase) + torch.sin(2 * phase) / 2 + torch.sin(3 * phase) / 4


def noise(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw white noise in bursts of a quarter of a second, with pauses."""
    bursts = torch.sin(2 * math.pi * 2 * _seconds(n) + _unit(generator)) >= 0
    return torch.randn(n, generator=generator) * bursts


def clicks(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw clicks of 2 ms at a steady rate of 3 to 8 a second."""
    period = round(SAMPLE_RATE / _log_uniform(3, 8, generator))
    since = (torch.arange(n) + int(period * _unit(generator))) % period
    return torch.randn(n, generator=generator) * torch.exp(-since / (0.002 * SAMPLE_RATE))


def chirp(n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw a glide from a low to a high frequency, three times a second."""
    low, high = _log_uniform(300, 600, generator), _log_uniform(2000, 5000, generator)
    place = (3 * _seconds(n) + _unit(generator)) % 1
    frequency = low * (high / low) ** place
    return torch.sin(2 * math.pi * frequency.cumsum(0) / SAMPLE_RATE)


Sound = Callable[[int, torch.Generator], "Tensor"]
"""Draws a wave of so many samples at 16 kHz."""

KINDS: dict[str, tuple[Sound, str]] = {
    "tone": (tone, "a steady tone"),
    "noise": (noise, "bursts of noise"),
    "clicks": (clicks, "regular clicks"),
    "chirp": (chirp, "a rising chirp"),
}
"""Label, sound and caption."""


def synthetic_sound(label: str, seconds: float, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Draw a sound with a peak of one half.

    Parameters
    ----------
    label : str
        One of :data:`KINDS`.
    seconds : float
        Length, at least 0.1.
    generator : torch.Generator
        On the CPU.
    """
    if label not in KINDS:
        raise ValueError(f"unknown sound {label!r}; known: {', '.join(KINDS)}.")
    if not seconds >= 0.1:
        raise ValueError(f"a sound must last at least 0.1 s, got {seconds} s.")
    wave = KINDS[label][0](round(seconds * SAMPLE_RATE), generator)
    ramp = torch.linspace(0, 1, _FADE)
    wave[:_FADE] *= ramp
    wave[-_FADE:] *= ramp.flip(0)
    return wave * (_PEAK / wave.abs().max())


def prepare_synthetic(
    out: Path | str,
    *,
    num: int,
    seconds: float = 2.0,
    seed: int = 0,
    encode: TextEncoder | None = None,
) -> Path:
    """Make a folder as :func:`prepare` does, of made-up sounds with embedded captions.

    Parameters
    ----------
    out : Path or str
        The folder; the sounds themselves are left beside it in ``<name>_sounds``.
    num : int
        Sounds of the train split, at least 2; a half as many are held out for validation.
    seconds : float, default 2.0
        The longest; the shortest is half as long.
    seed : int
        With the number of a sound, fixes it.
    encode : TextEncoder, optional
        Embeds the captions; the one that comes with the extra ``text`` if absent.

    Returns
    -------
    Path
        The folder.
    """
    from rectiflow.conditioning import TextEncoder

    from rectiflow_audio.io import write_audio

    if num < 2:
        raise ValueError(f"mixtures need at least 2 sounds, got num={num}.")
    out = Path(out)
    sounds = out.with_name(f"{out.name}_sounds")
    rows = []
    for split, count in (("train", num), ("valid", max(2, num // 2))):
        for i in range(count):
            label = list(KINDS)[i % len(KINDS)]
            generator = counter_generator("synthetic sound", seed, split, i)
            length = seconds * (1 + _unit(generator)) / 2
            file = f"{split}_{i:03d}_{label}.wav"
            wave = synthetic_sound(label, max(length, 0.1), generator)
            write_audio(sounds / file, wave[None], SAMPLE_RATE)
            rows.append({"file": file, "caption": KINDS[label][1], "label": label, "split": split})
    write_rows(sounds / "metadata.csv", ("file", "caption", "label", "split"), rows)
    prepare(sounds, out, encode=encode or TextEncoder.load())
    return out


def synthetic_pairs(
    out: Path | str,
    *,
    num: int,
    channels: int = 8,
    frames: int = 8,
    mels: int = 16,
    width: int = 384,
    seed: int = 0,
) -> Path:
    """Make pairs that mean nothing; ``out``, ``num``, ``seed`` as for :func:`drawn_pairs`.

    Parameters
    ----------
    channels, frames, mels : int
        Shape of the latents; those of an autoencoder with three levels are a quarter of the
        log-mel.
    width : int
        Channels of the query's states, of which there is one.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x0, x1, mixture = torch.randn(3, channels, frames, mels, generator=generator)
        query = {"context": torch.randn(1, width, generator=generator)}
        return x0, x1, {"mixture": mixture, **query, "context_mask": torch.ones(1)}

    return drawn_pairs(draw, out, num=num, seed=seed)


def _seconds(n: int) -> Float[Tensor, " n"]:
    return torch.arange(n) / SAMPLE_RATE


def _unit(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _log_uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low * (high / low) ** _unit(generator)
