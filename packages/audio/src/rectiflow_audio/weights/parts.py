"""Tensors of a full checkpoint by the network they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

UNET = "model.diffusion_model."
AVERAGED = "model_ema."
VAE = "first_stage_model."
VOCODER = "vocoder."
TEXT = "cond_stage_models.0.model."
LEFTOVERS = frozenset(
    {
        "model_ema.decay",
        "model_ema.num_updates",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    }
)
"""Counters of the average and buffers of a diffusion that the flow does not use."""

VAE_LOSS = "loss."
"""Networks that only the autoencoder's training needs."""

VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")


@dataclass
class Parts:
    """Tensors of a full checkpoint by what they belong to, without their prefixes."""

    unet: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)
    vae: dict[str, Tensor] = field(default_factory=dict)
    vocoder: dict[str, Tensor] = field(default_factory=dict)
    text: dict[str, Tensor] = field(default_factory=dict)
    scale_factor: Tensor | None = None
    unknown: list[str] = field(default_factory=list)


def split(tensors: Mapping[str, Tensor]) -> Parts:
    """Sort the tensors of a full checkpoint by network."""
    parts = Parts()
    for name, tensor in tensors.items():
        if name == "scale_factor":
            parts.scale_factor = tensor
        elif name in LEFTOVERS or name.startswith(VAE + VAE_LOSS):
            continue
        elif name.startswith(UNET):
            parts.unet[name.removeprefix(UNET)] = tensor
        elif name.startswith(AVERAGED):
            parts.averaged[name.removeprefix(AVERAGED)] = tensor
        elif name.startswith(VAE + VOCODER):
            parts.vocoder[name.removeprefix(VAE + VOCODER)] = tensor
        elif name.startswith(tuple(VAE + part for part in VAE_PARTS)):
            parts.vae[name.removeprefix(VAE)] = tensor
        elif name.startswith(TEXT):
            parts.text[name.removeprefix(TEXT)] = tensor
        else:
            parts.unknown.append(name)
    return parts


def prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of ``vae.ckpt`` the names that they have in a full checkpoint."""
    if any(name.startswith(VAE) for name in tensors):
        return tensors
    return {VAE + name: tensor for name, tensor in tensors.items()}
