"""What training minimises on a batch of sounds to make the autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.training.adversarial import adaptive_weight, hinge_loss
from torch import Tensor, nn

from rectiflow_audio.frontend import LogMel
from rectiflow_audio.networks.discriminators import PatchDiscriminator
from rectiflow_audio.networks.lpips import Lpips
from rectiflow_audio.networks.vae import SpectrogramVae

if TYPE_CHECKING:
    from jaxtyping import Float

OFFICIAL_START = 50_001


class VaeObjective(nn.Module):
    r"""Negative log-likelihood of the log-mel and a divergence of the posterior.

    With r = \|x - x̂\| + w LPIPS(x, x̂) per element and a learnt scalar s,

    .. math:: L = \frac{1}{B} \sum \left( r e^{-s} + s \right) + \beta\, \mathrm{KL},

    where the sum runs over samples, frames and bands, and KL is a mean over all elements.

    A batch holds ``target (b, samples)``, waves at the rate of the front end.

    Parameters
    ----------
    vae : SpectrogramVae
        What is trained.
    log_mel : LogMel, optional
        The front end; the released one if absent.
    kl_weight : float
        Beta. FlowSep's configuration has 1, AudioLDM's 1000.
    perceptual : Lpips, optional
        Needed when ``perceptual_weight`` is not 0; it stays as it is.
    perceptual_weight : float
        The w of the authors' training is 1.

    Raises
    ------
    ValueError
        When a weight is negative, or a perceptual term is asked for without its network.

    References
    ----------
    Liu et al., AudioLDM (arXiv 2301.12503); Rombach et al., "High-Resolution Image Synthesis with
    Latent Diffusion Models" (CVPR 2022).
    """

    def __init__(
        self,
        vae: SpectrogramVae,
        log_mel: LogMel | None = None,
        *,
        kl_weight: float = 1.0,
        perceptual: Lpips | None = None,
        perceptual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if kl_weight < 0 or perceptual_weight < 0:
            raise ValueError(
                f"weights must not be negative, got kl_weight={kl_weight} and "
                f"perceptual_weight={perceptual_weight}."
            )
        if (perceptual is None) != (perceptual_weight == 0):
            raise ValueError(
                f"perceptual_weight and its network go together, got {perceptual_weight} "
                f"{'without' if perceptual is None else 'with'} a network. Load one with "
                "Lpips.load(path), or leave both out."
            )
        self.network = vae
        self.log_mel = log_mel or LogMel()
        self.kl_weight, self.perceptual_weight = kl_weight, perceptual_weight
        self.perceptual = perceptual
        self.logvar = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms."""
        return self.terms(*self.reconstruct(batch, generator))

    def spectrogram(self, wave: Float[Tensor, "b n"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel, cut to a number of frames that the autoencoder takes."""
        x = self.log_mel(wave).unsqueeze(1)
        step = 2 ** (len(self.network.sizes.multipliers) - 1)
        frames = x.shape[2] // step * step
        if frames == 0:
            raise ValueError(
                f"target must be longer, got {wave.shape[-1]} samples, {x.shape[2]} frames; "
                f"expected at least {step} frames."
            )
        return x[:, :, :frames]

    def reconstruct(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-mel, its reconstruction from a posterior sample, and the mean KL."""
        x = self.spectrogram(batch["target"])
        posterior = self.network.encode(x)
        x_hat = self.network.decode(posterior.sample(generator=generator))
        return x, x_hat, posterior.kl().mean()

    def terms(self, x: Tensor, x_hat: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """Return the loss of a reconstruction and what it is made of."""
        error = (x - x_hat).abs()
        found = {"reconstruction": error.mean(), "kl": kl}
        if self.perceptual is not None:
            distance = self.perceptual(x, x_hat)
            found["perceptual"] = distance.mean()
            error = error + self.perceptual_weight * distance[:, None, None, None]
        nll = (error * torch.exp(-self.logvar) + self.logvar).sum() / len(x)
        return {"loss": nll + self.kl_weight * kl, "nll": nll, **found}


class AdversarialVaeObjective(VaeObjective):
    r"""The autoencoder's loss, joined by a discriminator of patches after a while.

    Train it with :class:`~rectiflow.training.adversarial.AdversarialTraining`.

    The generator's further term is :math:`-\lambda w\, \overline{D(\hat x)}`, where λ balances
    the gradients at the decoder's last layer; the discriminator minimises the hinge loss.

    Parameters
    ----------
    vae : SpectrogramVae
        What is trained.
    discriminator : PatchDiscriminator, optional
        The released one if absent.
    start : int
        The optimiser step from which the discriminator takes part.
    adversarial_weight : float
        The w above.
    **options
        As for :class:`VaeObjective`.

    References
    ----------
    Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021).
    """

    def __init__(
        self,
        vae: SpectrogramVae,
        discriminator: PatchDiscriminator | None = None,
        *,
        start: int = OFFICIAL_START,
        adversarial_weight: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(vae, **options)
        if start < 0 or adversarial_weight < 0:
            raise ValueError(
                f"start and adversarial_weight must not be negative, got {start} and "
                f"{adversarial_weight}."
            )
        self.discriminator = discriminator or PatchDiscriminator()
        self.start, self.adversarial_weight = start, adversarial_weight

    def generator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the autoencoder's loss and its terms."""
        x, x_hat, kl = self.reconstruct(batch, generator)
        found = self.terms(x, x_hat, kl)
        if step < self.start:
            return found
        adversarial = -self.discriminator(x_hat).mean()
        last = self.network.autoencoder.decoder.conv_out.weight
        balance = adaptive_weight(found["nll"], adversarial, last)
        loss = found["loss"] + self.adversarial_weight * balance * adversarial
        return {**found, "loss": loss, "adversarial": adversarial, "adaptive_weight": balance}

    def discriminator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor] | None:
        """Return the hinge loss of true and reconstructed log-mels, or None before the start."""
        if step < self.start:
            return None
        with torch.no_grad():
            x, x_hat, _ = self.reconstruct(batch, generator)
        real, fake = self.discriminator(x), self.discriminator(x_hat)
        loss = hinge_loss(real, fake)
        return {"loss": loss, "real": real.mean(), "fake": fake.mean()}
