"""What training minimises on a batch of mixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rectiflow.flow import Flow
from rectiflow.paths import Path
from rectiflow.storage.records import state_of
from torch import Tensor, nn

from rectiflow_audio.flow import FRAMES_MULTIPLE, condition, latent_flow, whole_frames
from rectiflow_audio.frontend import LogMel
from rectiflow_audio.heard import HeardError
from rectiflow_audio.networks.unet import SeparationUNet
from rectiflow_audio.networks.vae import SpectrogramVae


def log_mel_decoder(vae: SpectrogramVae) -> Callable[[Tensor], Tensor]:
    """Return what makes log-mels of latents, for losses on what is heard; it is not trained."""
    return vae.eval().requires_grad_(False).from_latent


class SeparationObjective(nn.Module):
    """The flow-matching loss of FlowSep in the latents of a frozen autoencoder.

    A batch holds waves, ``target (b, n)`` and ``mixture (b, n)``, with ``context (b, k, d)``,
    ``context_mask (b, k)`` and the empty query's ``null_context (1, k, d)``. With ``other (b, n)``
    and its ``other_context`` and ``other_mask``, each mixture is asked for a second sound as well.
    Stored pairs of reflow hold latents instead, ``x0``, ``x1`` and ``cond.*``, and pass the
    encoder by.

    Parameters
    ----------
    network : SeparationUNet
        What is trained.
    vae : SpectrogramVae
        Encodes target and mixture; frozen.
    flow : Flow, optional
        :func:`~rectiflow_audio.flow.latent_flow` if absent.
    log_mel : LogMel, optional
        The released front end if absent.
    text_dropout : float
        Share of samples (of batches if ``per_batch``) that get the empty query, with all its
        positions attended to: what makes guidance possible.
    per_batch : bool
        Decide once for the whole batch, as the authors do.
    posterior_sample : bool
        Take a sample of the posterior, as the authors do, not its mean.
    draws : int
        Noises and times drawn for each encoded example: encoding costs about as much as a call
        of a small network, and is paid once.
    text_noise : float
        Length of what is added to all states of a query, as a share of its mean state: other
        wordings are about that far away.
    heard : HeardError, optional
        A further loss, on the wave that masking makes of what the network predicts.

    References
    ----------
    Yuan et al., "FlowSep" (arXiv 2409.07614).
    """

    def __init__(
        self,
        network: SeparationUNet,
        vae: SpectrogramVae,
        flow: Flow | None = None,
        log_mel: LogMel | None = None,
        *,
        text_dropout: float = 0.1,
        per_batch: bool = False,
        posterior_sample: bool = True,
        draws: int = 1,
        text_noise: float = 0.0,
        heard: HeardError | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= text_dropout <= 1:
            raise ValueError(f"text_dropout must lie in [0, 1], got {text_dropout}.")
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}.")
        if heard is not None and flow is not None and not isinstance(flow.path, Path):
            raise ValueError(
                f"heard needs a path whose velocity tells the data, got {flow.path}; expected an "
                "affine one, such as that of latent_flow. Leave heard out."
            )
        self.network = network
        self.vae = vae.eval().requires_grad_(False)
        self.flow = flow or latent_flow()
        self.log_mel = log_mel or LogMel()
        self.text_dropout, self.per_batch = text_dropout, per_batch
        self.posterior_sample, self.draws = posterior_sample, draws
        self.text_noise, self.heard = text_noise, heard

    def train(self, mode: bool = True) -> SeparationObjective:
        """Set the mode of the network; the autoencoder stays as it is."""
        super().train(mode)
        self.vae.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch, and of waves its two parts."""
        stored = state_of(batch, "x1")
        if stored is not None:
            cond: Any = state_of(batch, "cond")
            out = self.flow.loss(
                self.network, stored, cond, x0=state_of(batch, "x0"), generator=generator
            )
            return {"loss": out.loss}
        x1, cond = self.encode(batch, generator)
        noise = torch.randn(x1.shape, generator=generator, device=x1.device)
        x0 = self.network.start(noise, cond)
        out = self.flow.loss(self.network, x1, cond, x0=x0, generator=generator)
        if self.heard is None:
            return {"loss": out.loss}
        path = self.flow.path
        assert isinstance(path, Path)
        velocity = self.flow.prediction.velocity(out.prediction, out.x_t, out.t, path)
        data: Any = path.data(velocity, out.x_t, out.t)
        waves = (rows.repeat_interleave(self.draws, 0) for rows in self.waves(batch))
        heard = self.heard(self.log_mel, self.vae.from_latent(data)[:, 0], *waves).mean()
        loss = out.loss + self.heard.weight * heard
        return {"loss": loss, "flow": out.loss.detach(), "heard": heard.detach()}

    @staticmethod
    def waves(batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what is asked for and its mixture, ``(b, n)`` each, of both queries."""
        targets = [batch[name] for name in ("target", "other") if name in batch]
        return torch.cat(targets), batch["mixture"].repeat(len(targets), 1)

    @torch.no_grad()
    def encode(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents of the targets and the condition of each, ``draws`` rows an example."""
        size = len(batch["mixture"])
        targets, _ = self.waves(batch)
        mels = self.spectrogram(torch.cat([targets, batch["mixture"]]))
        latents = self.vae.to_latent(mels, sample=self.posterior_sample, generator=generator)
        mixtures = latents[-size:].repeat(len(targets) // size, 1, 1, 1)
        cond = condition(mixtures, *self.query(batch, generator))
        if self.draws == 1:
            return latents[:-size], cond
        cond = {name: value.repeat_interleave(self.draws, 0) for name, value in cond.items()}
        return latents[:-size].repeat_interleave(self.draws, 0), cond

    def spectrogram(self, waves: Tensor) -> Tensor:
        """Return log-mels ``(b, 1, frames, mels)``, frames cut to what the networks take.

        Raises
        ------
        ValueError
            When nothing is left.
        """
        mels = self.log_mel(waves)
        if mels.shape[-2] < FRAMES_MULTIPLE:
            raise ValueError(
                f"waves are too short, got {mels.shape[-2]} frames; expected at least "
                f"{FRAMES_MULTIPLE}, 0.32 s."
            )
        return whole_frames(mels)[:, None]

    def query(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the queries' states and masks, some of them replaced by the empty query."""
        context, mask = batch["context"], batch["context_mask"]
        if "other" in batch:
            context = torch.cat([context, batch["other_context"]])
            mask = torch.cat([mask, batch["other_mask"]])
        if self.text_noise:
            mean = (context * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            size = mean.square().mean(-1, keepdim=True).sqrt()
            context = context + (self.text_noise * size * noise)[:, None]
        if self.text_dropout == 0:
            return context, mask
        rows = 1 if self.per_batch else len(context)
        draw = torch.rand(rows, generator=generator, device=context.device)
        dropped = (draw < self.text_dropout).view(-1, 1, 1)
        null = batch["null_context"][:1].to(context)
        context = torch.where(dropped, null, context)
        return context, torch.where(dropped[..., 0], torch.ones_like(mask), mask)
