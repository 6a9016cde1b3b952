"""One request carried out window by window: encode, flow, decode, make waves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from rectiflow.grids import uniform
from rectiflow.guidance import batched_cfg
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import counter_generator
from torch import Tensor

from rectiflow_audio.flow import FRAMES_MULTIPLE, condition
from rectiflow_audio.frontend import SAMPLE_RATE, Level, LogMel, normalise, resample
from rectiflow_audio.masking import apply_mask, mel_ratio_mask, mixture_consistency
from rectiflow_audio.waveform import Generated

if TYPE_CHECKING:
    from rectiflow_audio.networks.unet import SeparationUNet
    from rectiflow_audio.networks.vae import SpectrogramVae
    from rectiflow_audio.networks.vocoder import BigVgan
    from rectiflow_audio.request import Request
    from rectiflow_audio.windows import Window

SILENCE = 1e-5
"""Windows whose largest sample is below this are silent: silence in gives silence out."""

ROWS = {"cpu": 8, "cuda": 64}
"""Latents in one call of the network, by device."""

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
    vae: SpectrogramVae
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
        return ROWS["cuda" if self.device.type == "cuda" else "cpu"]

    def separated(self, pieces: Iterator[Window]) -> Iterator[Window]:
        """Separate windows, as many at once as the device takes."""
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
            found = self._render(normal, target, mixture).transpose(0, 1)
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
        mels = LogMel().to(waves.device)(waves)[:, None]
        mels = mels[:, :, : mels.shape[2] // FRAMES_MULTIPLE * FRAMES_MULTIPLE]
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
        moves = plan(uniform(request.steps), request.solver)
        ends = []
        for start in range(0, len(x0), self.rows):
            told = {name: value[start : start + self.rows] for name, value in cond.items()}
            size = len(told["mixture"])
            null = condition(
                told["mixture"],
                unwanted.states.expand(size, -1, -1),
                unwanted.mask.expand(size, -1),
            )
            field = batched_cfg(
                self._velocity,
                self.unet.with_text_keys(told),
                self.unet.with_text_keys(null),
                request.guidance,
            )
            ends.append(integrate(field, x0[start : start + self.rows], moves))
        return torch.cat(ends)

    def _velocity(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.unet(x, t, cond).float()

    def _noise(self, like: Tensor, purpose: str, index: int) -> Tensor:
        """Draw on the CPU, so that a seed means the same noise on every machine."""
        generator = counter_generator(purpose, self.request.seed, index)
        return torch.randn(like.shape[1:], generator=generator).to(like)

    def _render(self, waves: Tensor, targets: Tensor, mixtures: Tensor) -> Tensor:
        """Make the waves (b, k, n) of generated spectrograms."""
        rendered = []
        for wave, target, mixture in zip(waves.to(self.device), targets, mixtures, strict=True):
            render = self._renderer(wave, mixture)
            mels = [
                found[0] if len(found) == 1 else self.request.pick(found, query, render)
                for found, query in zip(target, self.request.queries, strict=True)
            ]
            if self.request.residual and self.request.waveform.keeps_phase:
                rendered.append(self._shared(wave, mixture, torch.stack(mels)))
            else:
                rendered.append(torch.stack([render(mel) for mel in mels]))
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
