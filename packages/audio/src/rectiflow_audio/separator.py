"""One request carried out window by window: encode, flow, decode, make waves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

import torch
from rectiflow.integrate import integrate
from rectiflow.randomness import KeyedNoise, counter_generator
from torch import Tensor

from rectiflow_audio.flow import condition, guided_field, whole_frames
from rectiflow_audio.frontend import SAMPLE_RATE, Level, LogMel, normalise, resample
from rectiflow_audio.masking import apply_mask, mel_ratio_mask, mixture_consistency
from rectiflow_audio.waveform import Generated

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_audio.networks.patches import PatchCodec
    from rectiflow_audio.networks.unet import SeparationUNet
    from rectiflow_audio.networks.vae import SpectrogramVae
    from rectiflow_audio.networks.vocoder import BigVgan
    from rectiflow_audio.request import Request
    from rectiflow_audio.windows import Window

SILENCE = 1e-5
"""Windows whose largest sample is below this are silent: silence in gives silence out."""

ROWS = {"cpu": 8, "cuda": 64}
"""Latents in one call of the network, by device."""


def rows_of(device: torch.device) -> int:
    """Return how many latents go through the network at once on a device."""
    return ROWS["cuda" if device.type == "cuda" else "cpu"]


TINY = 1e-20
"""Below every magnitude."""

QUIETEST_SHARE = 1e-8
"""Of the power, below which a residual is silence."""


@dataclass(frozen=True)
class Separator:
    """Separates windows of sound as one request asks; lives for one call.

    Parameters
    ----------
    unet, vae, vocoder
        The networks, on one device.
    request : Request
        What is asked.
    sample_rate : int
        Hz, of the windows.
    dtype : torch.dtype
        ``bfloat16`` runs the networks under autocast.
    """

    unet: SeparationUNet
    vae: SpectrogramVae | PatchCodec
    vocoder: BigVgan | None
    request: Request
    sample_rate: int = SAMPLE_RATE
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Return the device of the networks."""
        return next(self.unet.parameters()).device

    @property
    def rows(self) -> int:
        """Return how many latents go through the network at once."""
        return rows_of(self.device)

    def separated(self, pieces: Iterator[Window]) -> Iterator[Window]:
        """Separate windows, as many at once as the device takes; silence where none is asked."""
        for is_asked, run in groupby(pieces, self._is_asked):
            if is_asked:
                yield from self._separated(run)
                continue
            count = len(self.request.queries) + self.request.residual
            for piece in run:
                yield replace(piece, wave=piece.wave.new_zeros(count, *piece.wave.shape))

    def _is_asked(self, piece: Window) -> bool:
        if self.request.when is None:
            return True
        begin, end = (second * self.sample_rate for second in self.request.when)
        return piece.start < end and piece.start + piece.samples > begin

    def _separated(self, pieces: Iterator[Window]) -> Iterator[Window]:
        first = next(pieces, None)
        if first is None:
            return
        heard = 1 if self.request.channels == "mid" else first.wave.shape[0]
        latents = heard * len(self.request.queries) * self.request.candidates
        pieces, at_once = chain([first], pieces), max(1, self.rows // latents)
        while group := list(islice(pieces, at_once)):
            # Only a sound shorter than a window is padded, and it is the only one.
            waves = self.separate(torch.stack([p.wave for p in group]), group[0].samples)
            for piece, wave in zip(group, waves, strict=True):
                yield replace(piece, wave=wave)

    @torch.no_grad()
    def separate(self, waves: Tensor, real: int | None = None) -> Tensor:
        """Return the estimates (w, k, channels, n) of windows (w, channels, n).

        With a residual asked for, it is the last of k. Samples from ``real`` on are padding.
        """
        request = self.request
        count, channels, samples = waves.shape
        heard = waves.mean(1, keepdim=True) if request.channels == "mid" else waves
        rows = resample(heard.flatten(0, 1), self.sample_rate, SAMPLE_RATE)
        loud = rows.abs().amax(-1) > SILENCE
        flat = waves.flatten(0, 1)
        if not bool(loud.any()):
            found = flat.new_zeros(len(flat), len(request.queries), samples)
        else:
            normal, level = self._normalise(rows, real or samples)
            target, mixture = self.generate(normal.to(self.device))
            if request.channels == "mid":  # one mask for all channels
                target, mixture, mean, gain, loud = (
                    part.repeat_interleave(channels, 0)
                    for part in (target, mixture, level.mean, level.gain, loud)
                )
                level = Level(mean, gain)
                each = resample(flat, self.sample_rate, SAMPLE_RATE)
                own = self._normalise(each, real or samples)  # each channel has its own offset
                normal = own[0] / own[1].gain * gain
            picked = self._picked(normal, target, mixture)
            if request.channels == "image":
                picked = one_place(picked, level.gain.to(picked), channels)
            found = self._render(normal, picked, mixture).transpose(0, 1)
            found = level.restore(found).transpose(0, 1) * loud[:, None, None]
            found = resample(found, SAMPLE_RATE, self.sample_rate)[..., :samples]
        if request.consistent and not request.residual:  # else the residual makes the sum up
            found = mixture_consistency(found, flat)
        if request.residual:
            found = torch.cat([found, self._rest(found, flat)], dim=1)
        return found.unflatten(0, (count, channels)).transpose(1, 2)

    def _normalise(self, rows: Tensor, real: int) -> tuple[Tensor, Level]:
        """Normalise by what is not padding, which stays zero."""
        real = min(rows.shape[-1], round(real * SAMPLE_RATE / self.sample_rate))
        normal, level = normalise(rows[..., :real])
        return torch.nn.functional.pad(normal, (0, rows.shape[-1] - real)), level

    @torch.no_grad()
    def generate(self, waves: Tensor) -> tuple[Tensor, Tensor]:
        """Generate the spectrograms of the sounds in waves; each wave is encoded once.

        Parameters
        ----------
        waves : Tensor, shape (b, n)
            Normalised, 16 kHz, on the networks' device.

        Returns
        -------
        target : Tensor, shape (b, queries, candidates, frames, mels)
            Log-mels of the estimates.
        mixture : Tensor, shape (b, frames, mels)
            Log-mel of the mixture, through the same codec.
        """
        request = self.request
        mels = whole_frames(LogMel().to(waves.device)(waves)[:, None])
        k, c = len(request.queries), request.candidates
        context = request.context.to(waves.device)
        with torch.autocast(waves.device.type, self.dtype, enabled=self.dtype != torch.float32):
            posterior = self.vae.encode(mels)
            m = posterior.mean.float()
            if request.posterior_sample:
                m = m + posterior.std.float() * self._noise(m, "posterior", 0)
            m = m * self.vae.scale_factor
            noise = torch.stack([self._noise(m, "separate", i) for i in range(c)])
            cond = condition(
                m.repeat_interleave(k * c, 0),
                context.states.repeat_interleave(c, 0).repeat(len(m), 1, 1),
                context.mask.repeat_interleave(c, 0).repeat(len(m), 1),
            )
            x1 = self._flow(noise.repeat(len(m) * k, 1, 1, 1), cond)
            parts = torch.cat([x1, m]).split(self.rows)
            decoded = torch.cat([self.vae.from_latent(part).float()[:, 0] for part in parts])
        return decoded[: -len(m)].unflatten(0, (len(m), k, c)), decoded[-len(m) :]

    def _flow(self, x0: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Carry noise to latents, a bounded number of rows at a time."""
        request, unwanted = self.request, self.request.negative.to(x0.device)
        moves = request.moves
        ends = []
        x0 = self.unet.start(x0, cond)
        for start in range(0, len(x0), self.rows):
            told = {name: value[start : start + self.rows] for name, value in cond.items()}
            size = len(told["mixture"])
            null = condition(
                told["mixture"],
                unwanted.states.expand(size, -1, -1),
                unwanted.mask.expand(size, -1),
            )
            field = guided_field(
                self.unet, told, null, request.guidance, rule=request.rule, moves=moves
            )
            rows = range(start, start + size)
            # Fresh noise, like the first, is by candidate: the same in every window and channel.
            noise = KeyedNoise(request.seed, [row % request.candidates for row in rows])
            ends.append(integrate(field, x0[start : start + size], moves, noise=noise))
        return torch.cat(ends)

    def _noise(self, like: Tensor, purpose: str, index: int) -> Tensor:
        """Draw on the CPU, so that a seed means the same noise on every machine."""
        generator = counter_generator(purpose, self.request.seed, index)
        return torch.randn(like.shape[1:], generator=generator).to(like)

    def _picked(self, waves: Tensor, targets: Tensor, mixtures: Tensor) -> Tensor:
        """Make one log-mel of the candidates for each query, (b, k, frames, mels)."""
        if targets.shape[2] == 1:
            return targets[:, :, 0]
        rows = []
        for wave, target, mixture in zip(waves.to(self.device), targets, mixtures, strict=True):
            render = self._renderer(wave, mixture)
            queries = zip(target, self.request.queries, strict=True)
            rows.append(torch.stack([self.request.pick(mels, q, render) for mels, q in queries]))
        return torch.stack(rows)

    def _render(self, waves: Tensor, targets: Tensor, mixtures: Tensor) -> Tensor:
        """Make the waves (b, k, n) of generated spectrograms."""
        rendered = []
        for wave, target, mixture in zip(waves.to(self.device), targets, mixtures, strict=True):
            render = self._renderer(wave, mixture)
            if self.request.residual and self.request.waveform.keeps_phase:
                rendered.append(self._shared(wave, mixture, target))
            else:
                rendered.append(torch.stack([render(mel) for mel in target]))
        return torch.stack(rendered).cpu()

    def _shared(self, wave: Tensor, mixture: Tensor, mels: Tensor) -> Tensor:
        """Make the waves (k, n) of estimates that leave a residual: together, so that they share.

        Two queries for one sound would else take it twice, and leave it inverted.
        """
        count = len(mels)
        generated = Generated(
            mels,
            mixture.expand(count, *mixture.shape),
            wave.expand(count, *wave.shape),
            LogMel().to(self.device),
            self.vocoder,
            counter_generator("phase", self.request.seed, 0, device=self.device),
            is_shared=True,
        )
        return self.request.waveform(generated)

    def _renderer(self, wave: Tensor, mixture: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what makes a wave of a log-mel generated for one mixture."""
        generator = counter_generator("phase", self.request.seed, 0, device=self.device)
        log_mel = LogMel().to(self.device)

        def render(mel: Tensor) -> Tensor:
            one = Generated(mel[None], mixture[None], wave[None], log_mel, self.vocoder, generator)
            return self.request.waveform(one)[0]

        return render

    def _rest(self, found: Tensor, mixture: Tensor) -> Tensor:
        """Return everything but the estimates, (b, 1, n)."""
        if self.request.waveform.keeps_phase:
            return mixture[:, None] - found.sum(1, keepdim=True)
        # Waves that do not keep the phase cannot be subtracted: what they hold is masked out.
        log_mel = LogMel()
        heard = log_mel(mixture)
        share = (log_mel(found.sum(1)) - heard).exp().clamp(max=1)
        rest = heard + (1 - share.square()).clamp(min=QUIETEST_SHARE).sqrt().log()
        return apply_mask(mixture, mel_ratio_mask(rest, heard, log_mel, 1.0), log_mel)[:, None]


def one_place(
    mels: Float[Tensor, "b k frames mels"], gain: Float[Tensor, "b 1"], channels: int
) -> Float[Tensor, "b k frames mels"]:
    """Give each sound one place between the channels, for as long as a window lasts.

    Every channel was separated by itself, with errors of its own, and the sound would wander with
    them. Levels between channels become those of the whole window; where it is louder counts more.

    Parameters
    ----------
    mels : Tensor
        Log-mels of the sounds, channels of a window beside each other.
    gain : Tensor
        What each channel was multiplied by before.
    channels : int
        Of a window.
    """
    offset = gain.log()[:, None, :, None]
    size = (mels - offset).exp().unflatten(0, (-1, channels))  # w channels k frames mels
    level = size.square().sum((-2, -1), keepdim=True).sqrt()
    place = level / level.square().sum(1, keepdim=True).sqrt().clamp_min(TINY)
    placed = place * (place * size).sum(1, keepdim=True)
    return placed.clamp_min(TINY).log().flatten(0, 1) + offset
