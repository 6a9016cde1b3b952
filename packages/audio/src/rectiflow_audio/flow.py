"""What flows on sounds: latents of the wanted sound, from noise, beside those of the mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow.fields import VelocityField
from rectiflow.flow import Flow
from rectiflow.guidance import guided_velocity
from rectiflow.paths import TargetCFM
from rectiflow.time_density import TimeDensity, Uniform
from torch import Tensor

if TYPE_CHECKING:
    from rectiflow_audio.networks.unet import SeparationUNet

SIGMA_MIN = 1e-4
"""Width of the data end of the path: ``x_t = (1 - (1 - sigma_min) t) noise + t data``."""

FRAMES_MULTIPLE = 32
"""Mel frames come in multiples of this: 4 in the autoencoder, 8 in the UNet."""


def latent_flow(
    *, sigma_min: float = SIGMA_MIN, density: TimeDensity | None = None, **parts: Any
) -> Flow:
    """Return the flow of FlowSep: unit noise at t = 0, latents at t = 1, mean squared error.

    Parameters
    ----------
    sigma_min : float
        Of :class:`~rectiflow.paths.TargetCFM`.
    density : TimeDensity, optional
        Law of the time; uniform if absent, as published.
    **parts
        Further ones of :class:`~rectiflow.Flow`: ``coupling``, ``premetric``.

    References
    ----------
    Yuan et al., "FlowSep" (arXiv 2409.07614).
    """
    return Flow(path=TargetCFM(sigma_min), density=density or Uniform(), **parts)


def condition(mixture: Tensor, context: Tensor, context_mask: Tensor) -> dict[str, Tensor]:
    """Put together what the UNet is told, one row for each sample.

    Parameters
    ----------
    mixture : Tensor, shape (b, c, h, w)
        Latents of the mixture.
    context, context_mask : Tensor, shapes (b, n, d) and (b, n)
        States of the query, and which of them count.
    """
    return {"mixture": mixture, "context": context, "context_mask": context_mask}


def whole_frames(mels: Tensor) -> Tensor:
    """Cut log-mels ``(..., frames, mels)`` to as many frames as the networks take."""
    return mels[..., : mels.shape[-2] // FRAMES_MULTIPLE * FRAMES_MULTIPLE, :]


def guided_field(
    unet: SeparationUNet,
    cond: dict[str, Tensor],
    null: dict[str, Tensor],
    guidance: float,
    **how: Any,
) -> VelocityField:
    """Return the velocity in float32 under a condition, away from another.

    Parameters
    ----------
    unet : SeparationUNet
        The network.
    cond, null : dict
        From :func:`condition`, of the wanted and of the unwanted query.
    guidance : float
        Weight of classifier-free guidance; 1 is none.
    **how
        How it acts, as for :func:`rectiflow.guidance.guided_velocity`.
    """
    told = unet.with_text_keys(cond), unet.with_text_keys(null)
    return guided_velocity(unet, *told, guidance, **how)
