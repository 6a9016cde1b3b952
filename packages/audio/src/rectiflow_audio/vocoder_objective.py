"""What training minimises on a batch of sounds to make the vocoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectiflow_audio.frontend import LogMel
from rectiflow_audio.networks.discriminators import Judgement, WaveDiscriminator
from rectiflow_audio.networks.vocoder import BigVgan

if TYPE_CHECKING:
    from jaxtyping import Float


class VocoderObjective(nn.Module):
    r"""The losses of HiFi-GAN and BigVGAN on short random segments.

    Over the discriminators :math:`D_k` with layers l, for a wave x and a made one x̂,

    .. math::
        L_G &= \sum_k \overline{(1 - D_k(\hat x))^2}
            + w_f \sum_{k, l} \overline{|D_{kl}(x) - D_{kl}(\hat x)|}
            + w_m \overline{|\mathrm{mel}(x) - \mathrm{mel}(\hat x)|}, \\
        L_D &= \sum_k \overline{(1 - D_k(x))^2} + \overline{D_k(\hat x)^2}.

    A batch holds ``target (b, samples)``, waves at the rate of the front end; what is shorter
    than a segment is filled up with silence. Train it with
    :class:`~rectiflow.training.adversarial.AdversarialTraining`.

    Parameters
    ----------
    vocoder : BigVgan
        What is trained. Call its ``apply_weight_norm`` before to train as the authors do.
    discriminator : WaveDiscriminator, optional
        That of BigVGAN if absent.
    log_mel : LogMel, optional
        The front end; the released one if absent.
    segment : int
        Samples of each wave in a batch.
    offset : int
        Frame i of the spectrogram is centred on sample ``hop i + offset`` of the wave. 0 is the
        alignment of the front end, half a hop that of BigVGAN's own training.
    mel_weight, feature_weight : float
        The weights above.

    Raises
    ------
    ValueError
        When vocoder and front end disagree on hop or bands, or a number is out of range.

    References
    ----------
    Kong et al., HiFi-GAN (NeurIPS 2020), equations 1 to 7; Lee et al., BigVGAN (ICLR 2023).
    """

    def __init__(
        self,
        vocoder: BigVgan,
        discriminator: WaveDiscriminator | None = None,
        log_mel: LogMel | None = None,
        *,
        segment: int = 8192,
        offset: int = 0,
        mel_weight: float = 45.0,
        feature_weight: float = 2.0,
    ) -> None:
        super().__init__()
        self.network = vocoder
        self.discriminator = discriminator or WaveDiscriminator()
        self.log_mel = log_mel or LogMel()
        self.segment, self.offset = segment, offset
        self.mel_weight, self.feature_weight = mel_weight, feature_weight
        self._check()

    def _check(self) -> None:
        sizes, config = self.network.sizes, self.log_mel.config
        if (sizes.hop, sizes.n_mels) != (config.hop, config.n_mels):
            raise ValueError(
                f"vocoder and front end differ, got hops of {sizes.hop} and {config.hop} samples "
                f"and {sizes.n_mels} and {config.n_mels} bands; expected the same."
            )
        if self.segment < config.n_fft:
            raise ValueError(
                f"segment must be at least {config.n_fft} samples, a window of the front end, got "
                f"{self.segment}."
            )
        if not 0 <= self.offset < config.hop:
            raise ValueError(f"offset must lie in [0, {config.hop}), got {self.offset}.")
        if self.mel_weight < 0 or self.feature_weight < 0:
            raise ValueError(
                f"weights must not be negative, got mel_weight={self.mel_weight} and "
                f"feature_weight={self.feature_weight}."
            )

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the distance of log-mels, by which a vocoder is validated."""
        log_mel, wave = self.segments(batch["target"], generator)
        error = self._mel_error(wave, self.make(log_mel))
        return {"loss": self.mel_weight * error, "mel": error}

    def generator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the vocoder's loss and its terms."""
        log_mel, wave = self.segments(batch["target"], generator)
        made = self.make(log_mel)
        with torch.no_grad():
            real = self.discriminator(wave)
        fake = self.discriminator(made)
        terms = {
            "adversarial": generator_loss(fake),
            "features": feature_distance(real, fake),
            "mel": self._mel_error(wave, made),
        }
        loss = (
            terms["adversarial"]
            + self.feature_weight * terms["features"]
            + self.mel_weight * terms["mel"]
        )
        return {"loss": loss, **terms}

    def discriminator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the discriminators' loss."""
        log_mel, wave = self.segments(batch["target"], generator)
        with torch.no_grad():
            made = self.make(log_mel)
        return {"loss": discriminator_loss(self.discriminator(wave), self.discriminator(made))}

    def segments(
        self, wave: Float[Tensor, "b n"], generator: torch.Generator
    ) -> tuple[Float[Tensor, "b mels frames"], Float[Tensor, "b segment"]]:
        """Cut a random segment out of each wave; return its log-mel, seen in context, and itself.

        Segments begin on multiples of the hop.
        """
        hop = self.log_mel.config.hop
        frames = -(-self.segment // hop)
        room = max(wave.shape[-1] - self.segment, 0) // hop
        shortest = frames * hop + self.offset
        wave = F.pad(wave, (0, max(shortest - wave.shape[-1], 0)))
        log_mel = self.log_mel(wave[:, self.offset :])
        starts = min(log_mel.shape[1] - frames, room) + 1
        rows = torch.arange(len(wave), device=wave.device)[:, None]
        first = torch.randint(starts, rows.shape, generator=generator, device=wave.device)
        seen = first + torch.arange(frames, device=wave.device)
        heard = hop * first + torch.arange(self.segment, device=wave.device)
        return log_mel[rows, seen].transpose(1, 2), wave[rows, heard]

    def make(self, log_mel: Float[Tensor, "b mels frames"]) -> Float[Tensor, "b segment"]:
        """Return the vocoder's wave for a segment's log-mel."""
        return self.network(log_mel)[:, : self.segment]

    def _mel_error(self, wave: Tensor, made: Tensor) -> Tensor:
        return F.l1_loss(self.log_mel(made), self.log_mel(wave))


def generator_loss(fake: Sequence[Judgement]) -> Tensor:
    """Return the least-squares loss of being found out, summed over discriminators."""
    return torch.stack([(1 - each.score).square().mean() for each in fake]).sum()


def discriminator_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Return the least-squares loss of mistakes about real and made waves, summed likewise."""
    found = [
        (1 - x.score).square().mean() + y.score.square().mean()
        for x, y in zip(real, fake, strict=True)
    ]
    return torch.stack(found).sum()


def feature_distance(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Return the mean absolute difference of features, summed over layers and discriminators."""
    found = [
        F.l1_loss(y, x)
        for one, other in zip(real, fake, strict=True)
        for x, y in zip(one.features, other.features, strict=True)
    ]
    return torch.stack(found).sum()
