"""The autoencoder of spectrograms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor

from rectiflow_audio.networks.keys import vae_keys
from rectiflow_audio.networks.official_sizes import read_yaml, vae_sizes
from rectiflow_audio.networks.vae import SpectrogramVae, VaeConfig
from rectiflow_audio.weights.accounting import (
    Check,
    demand_groups,
    empty,
    filled,
    fitting,
    nothing,
    raise_together,
)
from rectiflow_audio.weights.parts import VAE, prefixed, split


def load_official_vae(
    path: Path | str, *, config: Path | str | None = None, scale_factor: float | None = None
) -> SpectrogramVae:
    """Read the autoencoder from the authors' ``vae.ckpt``, or from a full checkpoint.

    Parameters
    ----------
    path : Path or str
        The file.
    config : Path or str, optional
        The authors' yaml; without it, sizes come from the tensors' shapes.
    scale_factor : float, optional
        What latents are multiplied by. A full checkpoint has it; ``vae.ckpt`` does not, there it
        is 1 unless given.

    Raises
    ------
    CheckpointError
        As :func:`load_official`, for the autoencoder's tensors.
    """
    parts = split(prefixed(load_tensors(path)))
    official = {} if config is None else read_yaml(config)
    check = Check("autoencoder", unexpected=[n for n in parts.unknown if n.startswith(VAE)])
    if not parts.vae:
        raise CheckpointError(path, nothing("autoencoder", "encoder.* and decoder.*"))
    sizes = (
        VaeConfig.from_official(official["vae"])
        if official.get("vae")
        else vae_sizes(parts.vae, path)
    )
    vae = empty(lambda: SpectrogramVae(sizes))
    state = fitting(vae, vae_keys(vae), parts.vae, check)
    raise_together([check], path)
    if scale_factor is None and parts.scale_factor is not None:
        scale_factor = scale_of(parts.scale_factor, path)
    scale_factor = 1.0 if scale_factor is None else scale_factor
    state["scale_factor"] = torch.tensor(float(scale_factor))
    return filled(vae, state)


def vae_from_official(
    tensors: Mapping[str, Tensor], sizes: VaeConfig | None = None, scale_factor: float = 1.0
) -> SpectrogramVae:
    """Make an autoencoder from tensors under the authors' names."""
    vae = empty(lambda: SpectrogramVae(sizes or vae_sizes(tensors, "tensors")))
    check = Check("autoencoder")
    state = fitting(vae, vae_keys(vae), tensors, check)
    raise_together([check], "tensors")
    return filled(vae, state | {"scale_factor": torch.tensor(float(scale_factor))})


def vae_to_official(vae: SpectrogramVae) -> dict[str, Tensor]:
    """Return an autoencoder's tensors under the authors' names; attention is by 1x1 convolution.

    Raises
    ------
    ValueError
        When the authors' class cannot have its sizes, or takes no mean out of its input.
    """
    demand_groups(vae.sizes.groups, "autoencoder")
    if (vae.sizes.mel_mean, vae.sizes.mel_std) != (0.0, 1.0):
        raise ValueError(
            f"the autoencoder takes mean {vae.sizes.mel_mean} and deviation {vae.sizes.mel_std} "
            "out of its input; expected 0 and 1, since the authors' class has no such step. Train "
            "one without (mel_mean=0, mel_std=1)."
        )
    state = vae.state_dict()
    written = {}
    for ours, official in vae_keys(vae).items():
        tensor = state[ours]
        is_projection = ".attentions." in ours and tensor.ndim == 2
        written[official] = tensor[:, :, None, None] if is_projection else tensor
    return written


def scale_of(stored: Tensor, path: Path | str) -> float:
    """Return what latents are multiplied by.

    Raises
    ------
    CheckpointError
        When it is not one positive number.
    """
    value = float(stored) if stored.numel() == 1 else math.nan
    if not 0 < value < math.inf:
        raise CheckpointError(
            path,
            f"has a scale_factor of {stored.flatten()[:4].tolist()}, expected a number above 0",
        )
    return value
