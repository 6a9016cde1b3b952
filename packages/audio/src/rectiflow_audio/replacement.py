"""One sound of a recording turned into another: separated, edited and put back (RF-Edit).

The sound that is named is separated. Its latents, told as the mixture too, are inverted under its
own words while the attention values of the network's upward half are recorded, and sampled under
the new words with those values put back at first: what happens when stays, what it sounds like
changes. The change of the log-mel shapes the separated sound, which keeps its phase, and the rest
of the recording is added, untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.editing import FeatureTape
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.solvers import Midpoint

from rectiflow_audio.flow import condition, guided_field, whole_frames
from rectiflow_audio.frontend import SAMPLE_RATE, LogMel, resample
from rectiflow_audio.repair import overlapping, to_transform, window_transform

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_audio.pipeline import SeparationPipeline

_SOLVER = Midpoint()
_MOST_DB = 30.0  # that a spectrum may change


@dataclass(frozen=True)
class Replacer:
    """Replaces one sound by another.

    Parameters
    ----------
    pipe : SeparationPipeline
    source, target : str
        The sound that is there, and the one that is wanted.
    steps : int
        Of the inversion and of the edit, two evaluations each.
    keep : float
        Share of the steps in which the source's features are put back, 0 to 1.
    guidance : float
        By the target's words.
    """

    pipe: SeparationPipeline
    source: str
    target: str
    steps: int = 6
    keep: float = 0.3
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.keep <= 1:
            raise ValueError(
                f"steps must be positive and keep lie in 0 to 1, got {self.steps} and {self.keep}."
            )

    def __call__(
        self,
        samples: Float[np.ndarray, "channels n"],
        rate: int,
        when: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> Float[np.ndarray, "channels n"]:
        """Return the recording with the sound replaced; outside of ``when`` it stays as it is."""
        found = self.pipe(samples, rate, self.source, seed=seed, when=when)
        taken = found.estimates[0].samples
        length = round(self.pipe.settings.window_seconds * rate)
        gate = np.ones(samples.shape[-1], np.float32)
        if when is not None:
            from rectiflow_audio.windows import gate_of

            gate = gate_of(0, samples.shape[-1], rate, when).numpy()
        made = np.zeros_like(taken)
        fade = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(np.float32)
        weight = np.zeros(samples.shape[-1], np.float32)
        for start in overlapping(samples.shape[-1], length):
            part = slice(start, start + length)
            weight[part] += fade[: len(weight[part])]
            for channel, out in zip(taken, made, strict=True):
                new = self._window(channel[part], rate, length)
                out[part] += fade[: len(new)] * new
        changed = (made / weight - taken) * gate
        return np.where(gate > 0, samples + changed, samples).astype(samples.dtype)

    @torch.no_grad()
    def _window(self, wave: np.ndarray, rate: int, length: int) -> np.ndarray:
        """Edit one window of the separated sound."""
        peak = float(np.abs(wave).max())
        if peak < 1e-5:
            return wave
        pipe, device = self.pipe, self.pipe.device
        x = torch.from_numpy(np.pad(wave, (0, length - len(wave)))).float()
        mels = LogMel()(0.5 / peak * resample(x[None], rate, SAMPLE_RATE))[:, None]
        mels = whole_frames(mels).to(device)
        latents = pipe.vae.encode(mels).mean.float() * pipe.vae.scale_factor
        words = pipe.text.encode([self.source, self.target])
        null = pipe.text.null(1)
        source, target = (
            condition(latents, words.states[i : i + 1].to(device), words.mask[i : i + 1].to(device))
            for i in (0, 1)
        )
        unwanted = condition(latents, null.states.to(device), null.mask.to(device))
        tape = FeatureTape(
            pipe.unet, lambda name: "up_blocks" in name and name.endswith("attn1.to_v")
        )
        grid = uniform(self.steps)
        plain = guided_field(pipe.unet, source, unwanted, 1.0)
        wanted = guided_field(pipe.unet, target, unwanted, self.guidance)
        noise = integrate(plain, latents, reverse(plan(grid, tape.record(_SOLVER))))
        moves = plan(grid, tape.replay(_SOLVER, round(self.keep * self.steps)))
        made = integrate(wanted, noise, moves)
        new, old = pipe.vae.from_latent(torch.cat([made, latents])).float()[:, 0].cpu()
        change = (new - old).clamp(-_MOST_DB / 8.69, _MOST_DB / 8.69)
        transform = window_transform(rate, length)
        gain = to_transform(change, transform, rate).exp()
        return transform.adjoint(transform(x[None]) * gain[..., None])[0, : len(wave)].numpy()
