"""Repairs: clipped, missing or cut-off sound, from what is left and from what a flow expects.

The checkpoint separates: told a query and the latents of a mixture it draws the latents of the
sound. As a prior for one recording it is told the recording itself, with its damage filled by a
guess, for the mixture, and the query says what the sound is; the latents that the damage does not
reach are measured, so that any method of :mod:`rectiflow.inverse` draws the others. Dropping the
mixture would ask the network for what it was never trained on. What is taken of the result is the
change of the log-mel inside of the damage: it shapes the spectrum under which the lost samples are
the most likely ones, or a draw. Samples that are known are kept bit for bit.

Longer than 400 lines because the kinds of damage share how sound is cut, filled and blended.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.inverse import STFT, FlowChef, Mask, Measurement, Method
from rectiflow.randomness import KeyedNoise, counter_generator
from torch import Tensor
from torch.nn import functional as F

from rectiflow_audio.flow import FRAMES_MULTIPLE, condition, guided_field
from rectiflow_audio.frontend import SAMPLE_RATE, LogMel, MelConfig, mel_filters, resample
from rectiflow_audio.prediction import draw, linear_prediction, smoothest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from rectiflow_audio.pipeline import SeparationPipeline

QUERY = "a sound"
"""What is asked for if nothing is said."""

_CELL = 4  # frames and bands of a latent
_MOST_DB = 20.0  # that the flow may change a spectrum
_FRAME_S = 0.032  # seconds of a frame of the transform
_SILENT = 1e-20  # power, above none
_METHOD = FlowChef()


class Damage(ABC):
    """What happened to a recording; a value."""

    lively: float = 0.0
    """How much of a draw is added to the mean, which fades in long gaps."""

    floor: float = 1e-4
    """Of a spectrum's largest power: lower ones need a fill to begin with that is good already."""

    trust: float = 1.0
    """Share of the flow's change of the spectrum, in decibels, that is taken."""

    rounds: int = 1
    """How often the spectrum is taken from the fill and the fill from the spectrum."""

    @abstractmethod
    def known(self, wave: Float[np.ndarray, " n"], rate: int) -> Bool[np.ndarray, " n"]:
        """Tell which samples are as they were."""

    def limit(self, fill: np.ndarray, wave: np.ndarray) -> np.ndarray:
        """Return a fill that does not contradict the recording."""
        return fill


@dataclass(frozen=True)
class Clip(Damage):
    """Samples beyond a level were cut down to it.

    Parameters
    ----------
    level : float, optional
        Of full scale; the largest magnitude of the recording if absent.
    """

    level: float | None = None
    rounds = 2
    floor = 1e-6
    trust = 0.25

    def __post_init__(self) -> None:
        if self.level is not None and not 0 < self.level <= 1:
            raise ValueError(
                f"the level of clipping must lie in (0, 1], got {self.level}; expected a share of "
                "full scale."
            )

    def known(self, wave: Float[np.ndarray, " n"], rate: int) -> Bool[np.ndarray, " n"]:
        """Tell which samples are below the level."""
        size = np.abs(wave)
        level = size.max() if self.level is None else self.level
        return (size < 0.9999 * level) | (level == 0)

    def limit(self, fill: np.ndarray, wave: np.ndarray) -> np.ndarray:
        """Keep the fill beyond the level, on its side."""
        return np.where(wave >= 0, np.maximum(fill, wave), np.minimum(fill, wave))


@dataclass(frozen=True)
class Gaps(Damage):
    """Spans that are missing.

    Parameters
    ----------
    spans : tuple of (float, float)
        Seconds.
    """

    spans: tuple[tuple[float, float], ...]
    lively = 0.35

    def __post_init__(self) -> None:
        for start, stop in self.spans:
            if not 0 <= start < stop:
                raise ValueError(
                    f"a span must begin before it ends, got {start:g} to {stop:g} s; expected "
                    "A-B with 0 <= A < B."
                )

    def known(self, wave: Float[np.ndarray, " n"], rate: int) -> Bool[np.ndarray, " n"]:
        """Tell which samples lie in no span."""
        known = np.ones(len(wave), bool)
        for start, stop in self.spans:
            if stop > len(wave) / rate + 1e-9:
                raise ValueError(
                    f"the span {start:g} to {stop:g} s is outside of the recording, which has "
                    f"{len(wave) / rate:.6g} s."
                )
            known[round(start * rate) : round(stop * rate)] = False
        return known


@dataclass(frozen=True)
class Band(Damage):
    """Frequencies above a limit are missing.

    Parameters
    ----------
    cutoff : float
        Hz.
    """

    cutoff: float

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ValueError(f"the limit of a band must be positive, got {self.cutoff:g} Hz.")

    def known(self, wave: Float[np.ndarray, " n"], rate: int) -> Bool[np.ndarray, " n"]:
        """No sample is as it was."""
        if not self.cutoff < min(rate, SAMPLE_RATE) / 2:
            raise ValueError(
                f"nothing is missing below {self.cutoff:g} Hz in a recording at {rate} Hz; "
                f"expected a limit below {min(rate, SAMPLE_RATE) / 2:g} Hz."
            )
        return np.zeros(len(wave), bool)


@dataclass(frozen=True)
class Repairer:
    """Repairs recordings of one pipeline.

    Parameters
    ----------
    pipe : SeparationPipeline
    damage : Damage
    query : str
        What the sound is.
    evaluations : int
        Of the network, for each window; 0 leaves the flow out.
    guidance : float
        By the query, 1 is none.
    method : Method
        How latents that the damage does not reach lead the others.
    seed : int
    """

    pipe: SeparationPipeline
    damage: Damage
    query: str = QUERY
    evaluations: int = 8
    guidance: float = 1.0
    method: Method = _METHOD
    seed: int = 0

    def __call__(
        self, samples: Float[np.ndarray, "channels n"], rate: int
    ) -> Float[np.ndarray, "channels n"]:
        """Return the repaired recording, of the same shape and dtype."""
        if not np.isfinite(samples).all():
            raise ValueError("the recording holds NaN or infinite samples; expected numbers.")
        return np.stack([self._channel(channel, rate) for channel in samples])

    def windows(self, samples: Float[np.ndarray, "channels n"], rate: int) -> int:
        """Return in how many windows a recording is repaired."""
        length = round(self.pipe.settings.window_seconds * rate)
        if isinstance(self.damage, Band):
            return len(samples) * len(overlapping(samples.shape[-1], length))
        known = (self.damage.known(wave, rate) for wave in samples)
        return sum(len(_windows(each, len(each), length)) for each in known)

    def _channel(self, wave: np.ndarray, rate: int) -> np.ndarray:
        known = self.damage.known(wave, rate)
        if known.all():
            return wave
        length = round(self.pipe.settings.window_seconds * rate)
        if isinstance(self.damage, Band):
            return self._widened(wave, rate, length)
        if not known.any():
            raise ValueError("nothing is left of the recording; expected some of it.")
        starts = _windows(known, len(wave), length)
        found = wave.astype(np.float64)
        found = np.where(known, wave, self.damage.limit(linear_prediction(found, known), found))
        for start in starts:
            part = slice(start, min(start + length, len(wave)))
            found[part] = self._window(found[part], wave[part], known[part], rate, length, start)
        return np.where(known, wave, found.astype(wave.dtype))

    def _widened(self, wave: np.ndarray, rate: int, length: int) -> np.ndarray:
        """Add the missing band in windows that overlap by half and fade into each other."""
        total, weight = np.zeros(len(wave)), np.zeros(len(wave))
        fade = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(float)
        for start in overlapping(len(wave), length):
            piece = wave[start : start + length]
            x = torch.from_numpy(np.pad(piece, (0, length - len(piece)))).float()
            more = self._band(x, rate, start)[: len(piece)].double().numpy()
            total[start : start + length] += fade[: len(piece)] * more
            weight[start : start + length] += fade[: len(piece)]
        return (wave + total / weight).astype(wave.dtype)

    def _window(
        self,
        guess: np.ndarray,
        wave: np.ndarray,
        known: np.ndarray,
        rate: int,
        length: int,
        start: int,
    ) -> np.ndarray:
        """Repair one window, of which ``guess`` is a first fill."""
        transform = window_transform(rate, length)
        pad = length - len(wave)
        x = torch.from_numpy(np.pad(guess, (0, pad))).float()
        real = torch.from_numpy(np.pad(known, (0, pad), constant_values=True))
        generator = counter_generator("repair", self.seed, start)
        lost = _lost_frames(~real, transform)
        if self.damage.lively:
            x = torch.where(real, x, x + draw(_context(x, lost, transform), transform, generator))
        change = self._change(x, lost, None, rate, transform, start)
        for _ in range(self.damage.rounds):
            power = transform(x[None])[0].square().sum(-1)
            if self.damage.lively:
                power = torch.where(lost[:, None], _context(x, lost, transform), power)
            power = (_smooth(power) if self.damage.lively else power) * change
            power = power.clamp_min(max(self.damage.floor * power.max().item(), _SILENT))
            mean = smoothest(x, real, power, transform)
            if self.damage.lively:
                drawn = smoothest(
                    x, real, power, transform, drawn=draw(power, transform, generator)
                )
                mean = mean + self.damage.lively * (drawn - mean)
            fill = self.damage.limit(mean[: len(wave)].double().numpy(), wave)
            x = torch.where(real, x, torch.from_numpy(np.pad(fill, (0, pad))).float())
        return x[: len(wave)].double().numpy()

    def _band(self, x: Tensor, rate: int, start: int) -> Tensor:
        """Return the band above the cutoff: the fine structure below it moved up, and shaped."""
        assert isinstance(self.damage, Band)
        transform = window_transform(rate, len(x))
        generator = counter_generator("repair", self.seed, start)
        bins = transform.size // 2 + 1
        edge = int(np.ceil(self.damage.cutoff / rate * transform.size))
        top = min(bins, int(8000 / rate * transform.size) + 1)
        spectrum = transform(x[None])[0]
        width = max(edge // 2, 1)
        index = torch.arange(edge, top)
        source = edge - width + (index - edge) % width
        moved = torch.zeros_like(spectrum)
        # As much softer with each octave as from the lower to the upper half of what is there.
        low, high = (
            spectrum[:, a:b].square().sum((-1, -2)).mean().clamp_min(1e-20) / (b - a)
            for a, b in ((edge // 4, edge // 2), (edge // 2, edge))
        )
        slope = float((high / low).clamp(1e-3, 1.0))
        fall = slope ** (torch.log2(index / max(edge - width / 2, 1)) / 2)
        moved[:, index] = spectrum[:, source] * fall[:, None]
        turned = torch.rand(len(index), generator=generator) * 2 * torch.pi
        rotated = torch.view_as_complex(moved[:, index].contiguous())
        moved[:, index] = torch.view_as_real(rotated * torch.polar(torch.ones_like(turned), turned))
        filled = x + transform.adjoint(moved[None])[0]
        change = self._change(filled, None, self.damage.cutoff, rate, transform, start)
        moved = moved * change.sqrt()[..., None]
        return transform.adjoint(moved[None])[0]

    @torch.no_grad()
    def _change(
        self,
        x: Tensor,
        lost: Tensor | None,
        cutoff: float | None,
        rate: int,
        transform: STFT,
        start: int,
    ) -> Float[Tensor, "frames bins"]:
        """Return the factor of power by which the flow changes what is lost."""
        if not self.evaluations:
            return torch.ones(transform.frames, transform.size // 2 + 1)
        pipe, device = self.pipe, self.pipe.device
        wave = resample(x[None], rate, SAMPLE_RATE)
        peak = wave.abs().max().clamp_min(1e-6)
        mels = LogMel()(0.5 * wave / peak)[:, None]
        frames = mels.shape[-2] // FRAMES_MULTIPLE * FRAMES_MULTIPLE
        mels = mels[..., :frames, :]
        unknown = torch.zeros(mels.shape[-2:], dtype=torch.bool)
        seconds = torch.arange(frames) * MelConfig().hop / SAMPLE_RATE
        if lost is not None:
            at = _nearest(seconds, transform, rate)
            unknown |= lost[at][:, None]
        if cutoff is not None:
            unknown |= _centres() > cutoff
        latents = pipe.vae.encode(mels.to(device)).mean.float() * pipe.vae.scale_factor
        cell = F.max_pool2d(unknown[None, None].float(), _CELL)[0, 0] > 0
        keep = ~cell.to(device)
        context, null = pipe.text.encode([self.query]), pipe.text.null(1)
        told, untold = (
            condition(latents, e.states.to(device), e.mask.to(device)) for e in (context, null)
        )
        field = guided_field(pipe.unet, told, untold, self.guidance)
        noise = torch.randn(latents.shape, generator=counter_generator("latent", self.seed, start))
        x0 = pipe.unet.start(noise.to(device), told)
        held = Measurement(Mask(keep), torch.where(keep, latents, 0.0))
        if not self.method.fits(held):
            raise ValueError(f"{self.method} does not fit a mask; expected another method.")
        made = self.method(field, held, x0, self.evaluations, KeyedNoise(self.seed, [start]))
        new, old = pipe.vae.from_latent(torch.cat([made, latents])).float()[:, 0].cpu()
        change = torch.where(unknown, new - old, 0.0).clamp(-_MOST_DB / 8.69, _MOST_DB / 8.69)
        return (2 * self.damage.trust * to_transform(change, transform, rate)).exp()


def overlapping(count: int, length: int) -> range:
    """Return where windows begin that cover so many samples and overlap by half."""
    return range(0, max(count - length // 2, 1), length // 2)


def window_transform(rate: int, length: int) -> STFT:
    """Return the transform of windows, of frames of 32 ms."""
    size = 8 * round(_FRAME_S * rate / 8)
    return STFT(length, size, size // 4)


def _windows(known: np.ndarray, count: int, length: int) -> list[int]:
    """Return where windows begin that hold all that is lost, each gap in the middle of one."""
    starts, at = [], 0
    lost = np.flatnonzero(~known)
    while len(lost := lost[lost >= at]):
        first = int(lost[0])
        end = first
        while end < count and not known[end]:
            end += 1
        if end - first > length // 2:
            raise ValueError(
                f"a gap is too long for the checkpoint, got {end - first} samples; expected at "
                f"most {length // 2}, half of its window."
            )
        begin = max(0, min(first - (length - (end - first)) // 2, count - length))
        starts.append(begin)
        at = begin + length
    return starts


def _lost_frames(lost: Tensor, transform: STFT) -> Tensor:
    """Tell which frames of a transform reach samples that are lost."""
    right = (transform.frames - 1) * transform.hop + 1 - transform.samples
    padded = F.pad(lost.float(), (transform.size - 1, right))
    return padded.unfold(-1, transform.size, transform.hop).amax(-1) > 0


def _context(x: Tensor, lost: Tensor, transform: STFT) -> Tensor:
    """Return the power of a typical frame around what is lost, one row: loud moments pass."""
    power = transform(x[None])[0].square().sum(-1)
    near = F.max_pool1d(lost[None].float(), 41, 1, 20)[0] > 0
    around = near & ~lost
    if not around.any():
        around = ~lost if (~lost).any() else lost
    return power[around].median(0).values[None] / math.log(2)  # of noise, the mean


def _smooth(power: Tensor) -> Tensor:
    """Average over three frames, so that one frame's accidents are no rule."""
    return F.avg_pool1d(power.T[None], 3, 1, 1, count_include_pad=False)[0].T


def _times(transform: STFT, rate: int) -> Tensor:
    """Return the middles of the transform's frames in seconds."""
    first = transform.size / 2 - (transform.size - 1)
    return (torch.arange(transform.frames) * transform.hop + first) / rate


def to_transform(
    mel: Float[Tensor, "frames mels"], transform: STFT, rate: int
) -> Float[Tensor, "more bins"]:
    """Return values of mel frames and bands at the frames and bins of a transform."""
    at = (_times(transform, rate) * SAMPLE_RATE / MelConfig().hop).round().long()
    weights = _to_bins(rate, transform.size // 2 + 1)
    return mel[at.clamp(0, len(mel) - 1)] @ weights.T


def _nearest(seconds: Tensor, transform: STFT, rate: int) -> Tensor:
    """Return the frame of the transform nearest to each time."""
    index = (seconds - _times(transform, rate)[0]) * rate / transform.hop
    return index.round().long().clamp(0, transform.frames - 1)


def _centres() -> Float[Tensor, " mels"]:
    """Return the middle of each mel band in Hz."""
    filters, config = mel_filters(MelConfig()), MelConfig()
    hertz = torch.linspace(0, config.sample_rate / 2, filters.shape[1])
    return (filters * hertz).sum(1) / filters.sum(1)


def _to_bins(rate: int, bins: int) -> Float[Tensor, "bins mels"]:
    """Return weights that interpolate values of mel bands at the bins of a transform."""
    centres, hertz = _centres(), torch.linspace(0, rate / 2, bins)
    high = torch.searchsorted(centres, hertz).clamp(1, len(centres) - 1)
    share = ((hertz - centres[high - 1]) / (centres[high] - centres[high - 1])).clamp(0, 1)
    weights = torch.zeros(bins, len(centres))
    row = torch.arange(bins)
    weights[row, high - 1] = 1 - share
    weights[row, high] += share
    return weights
