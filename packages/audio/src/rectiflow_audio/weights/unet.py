"""The flow's network, as trained and averaged."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from rectiflow_audio.networks.keys import unet_keys
from rectiflow_audio.networks.official_sizes import unet_sizes
from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.weights.accounting import (
    Check,
    demand_groups,
    empty,
    filled,
    fitting,
    raise_together,
)
from rectiflow_audio.weights.parts import AVERAGED

log = logging.getLogger(__name__)

FLATTENED = "diffusion_model"
"""What an averaged tensor's name starts with, followed by the UNet's name without its dots."""


def unet_from_official(
    tensors: Mapping[str, Tensor], sizes: UNetConfig | None = None
) -> SeparationUNet:
    """Make a UNet from tensors under the authors' names, all of its outputs kept."""
    unet = empty(lambda: SeparationUNet(sizes or unet_sizes(tensors, "tensors")))
    check = Check("UNet")
    state = fitting(unet, unet_keys(unet), tensors, check)
    raise_together([check], "tensors")
    return filled(unet, state)


def unet_to_official(unet: SeparationUNet) -> dict[str, Tensor]:
    """Return a UNet's tensors under the authors' names, with as many outputs as inputs.

    Raises
    ------
    ValueError
        When the authors' class cannot have its sizes.
    """
    demand_groups(unet.sizes.groups, "UNet")
    state = unet.state_dict()
    written = {official: state[ours] for ours, official in unet_keys(unet).items()}
    lacking = 2 * unet.sizes.latent_channels - unet.sizes.out_channels
    if lacking > 0:
        for name in ("out.2.weight", "out.2.bias"):
            zeros = written[name].new_zeros(lacking, *written[name].shape[1:])
            written[name] = torch.cat([written[name], zeros])
    return written


def without_unused_outputs(unet: SeparationUNet) -> SeparationUNet:
    """Return the UNet without the outputs that do not count, or itself if it has none.

    They got no gradient, so they are zero in a released file; a warning is logged where not.
    """
    kept = unet.sizes.latent_channels
    if unet.sizes.out_channels == kept:
        return unet
    state = unet.state_dict()
    for name in ("unet.conv_out.weight", "unet.conv_out.bias"):
        if state[name][kept:].any():
            log.warning(
                "the UNet's outputs beyond the first %d are left out although %s is not zero there",
                kept,
                name,
            )
        state[name] = state[name][:kept].clone()
    smaller = empty(lambda: SeparationUNet(replace(unet.sizes, out_channels=kept)))
    return filled(smaller, state)


def flat(name: str) -> str:
    """Return the name of an averaged tensor."""
    return FLATTENED + name.replace(".", "")


def unflattened(
    averaged: Mapping[str, Tensor], names: Iterable[str], check: Check
) -> dict[str, Tensor]:
    """Find each averaged tensor by its flattened name."""
    full = {flat(name): name for name in names}
    check.unexpected += [AVERAGED + name for name in averaged if name not in full]
    return {full[name]: tensor for name, tensor in averaged.items() if name in full}
