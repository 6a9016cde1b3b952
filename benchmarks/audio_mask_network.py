"""The discriminative baseline: a network of the flow's size that predicts a mask directly.

It has the flow's own UNet, asked once at t = 0 instead of step by step: in place of noisy latents
and mixture latents it sees the mixture's log-mel in patches of 4 x 4, and answers with a mask.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rectiflow_audio.frontend import LogMel
from rectiflow_audio.networks import SeparationUNet, UNetConfig
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 4
MEL_MEAN, MEL_STD = -5.0, 3.0


class MaskNetwork(nn.Module):
    """Predict the mask of the wanted sound on the mel bands of a mixture."""

    def __init__(self, sizes: UNetConfig) -> None:
        super().__init__()
        self.unet = SeparationUNet(sizes)

    def forward(self, log_mel: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Return the mask ``(b, frames, mels)`` in [0, 1]; frames in multiples of 32."""
        x = F.pixel_unshuffle((log_mel[:, None] - MEL_MEAN) / MEL_STD, PATCH)
        cond = {"mixture": x, "context": context, "context_mask": context_mask}
        logits = self.unet(x, torch.zeros(len(x), device=x.device), cond)
        return F.pixel_shuffle(logits.float(), PATCH)[:, 0].sigmoid()


class MaskObjective(nn.Module):
    """Squared error of the masked mel magnitudes, compressed by a square root."""

    def __init__(self, network: MaskNetwork, log_mel: LogMel | None = None) -> None:
        super().__init__()
        self.network, self.log_mel = network, log_mel or LogMel()

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch; nothing is random."""
        target, mixture = self.log_mel(batch["target"]), self.log_mel(batch["mixture"])
        frames = mixture.shape[1] // 32 * 32
        target, mixture = target[:, :frames], mixture[:, :frames]
        mask = self.network(mixture, batch["context"], batch["context_mask"])
        wanted = (0.5 * target).exp()
        found = mask.clamp_min(1e-8).sqrt() * (0.5 * mixture).exp()
        return {"loss": (found - wanted).square().mean()}
