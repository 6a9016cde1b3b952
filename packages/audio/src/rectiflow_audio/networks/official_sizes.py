"""Sizes of the networks in the authors' files: from their yaml, or from tensor shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rectiflow.storage.tensor_files import CheckpointError
from torch import Tensor

from rectiflow_audio.networks.unet import UNetConfig
from rectiflow_audio.networks.vae import VaeConfig

RELEASED_VOCODER: dict[str, Any] = {
    "resblock": "1",
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_dilation_sizes": [1, 3, 5],
    "activation": "snakebeta",
    "snake_logscale": True,
    "n_fft": 1024,
    "hop_size": 160,
    "win_size": 1024,
    "sampling_rate": 16000,
    "fmin": 0,
    "fmax": 8000,
}
"""What a vocoder's tensors do not show."""


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read the authors' yaml.

    Returns
    -------
    dict
        ``unet``, the arguments of their ``UNetModel``, ``vae``, those of their ``AutoencoderKL``,
        and ``document``, everything.

    Raises
    ------
    CheckpointError
        When it is no yaml, or has no such arguments.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"is not a YAML file ({error})") from error
    found = {"document": document}
    for name, key in (("unet", "unet_config"), ("vae", "first_stage_config")):
        value: Any = document
        for part in ("model", "params", key, "params"):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not isinstance(value, Mapping):
            raise CheckpointError(
                path, f"has no model.params.{key}.params; expected the authors' yaml of the flow"
            )
        found[name] = value
    return found


def unet_sizes(tensors: Mapping[str, Tensor], path: Path | str) -> UNetConfig:
    """Infer a UNet's sizes from its tensors' shapes; heads have 32 channels, as released.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the authors' names, without a prefix.
    path : Path or str
        Of the file, for the message.

    Raises
    ------
    CheckpointError
        When a tensor that shows a size is missing.
    """
    shape = _Shapes(tensors, "UNet", path)
    channels, inputs = shape("input_blocks.0.0.weight")[:2]
    changes = shape.indices(r"input_blocks\.(\d+)\.0\.op\.weight")
    last = max(shape.indices(r"input_blocks\.(\d+)\."))
    blocks = changes[0] - 1 if changes else last
    firsts = [1 + level * (blocks + 1) for level in range(len(changes) + 1)]
    middle = "middle_block.2.transformer_blocks"
    return UNetConfig(
        latent_channels=inputs // 2,
        out_channels=shape("out.2.weight")[0],
        channels=channels,
        multipliers=tuple(
            shape(f"input_blocks.{i}.0.in_layers.2.weight")[0] // channels for i in firsts
        ),
        attention=tuple(f"input_blocks.{i}.1.norm.weight" in tensors for i in firsts),
        blocks=blocks,
        context_channels=shape(f"{middle}.0.attn2.to_k.weight")[1],
        depth=len(shape.indices(rf"{re.escape(middle)}\.(\d+)\.norm1\.weight")),
    )


def vae_sizes(tensors: Mapping[str, Tensor], path: Path | str) -> VaeConfig:
    """Infer an autoencoder's sizes from its tensors' shapes; arguments as :func:`unet_sizes`."""
    shape = _Shapes(tensors, "autoencoder", path)
    channels = shape("encoder.conv_in.weight")[0]
    levels = shape.indices(r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
    latent, inner = shape("post_quant_conv.weight")[1], shape("decoder.conv_in.weight")[1]
    return VaeConfig(
        channels=channels,
        multipliers=tuple(
            shape(f"encoder.down.{i}.block.0.conv1.weight")[0] // channels for i in levels
        ),
        blocks=len(shape.indices(r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")),
        latent_channels=latent,
        attention=tuple(i for i in levels if f"encoder.down.{i}.attn.0.q.weight" in tensors),
        inner_channels=None if inner == latent else inner,
    )


def vocoder_arguments(tensors: Mapping[str, Tensor], path: Path | str) -> dict[str, Any]:
    """Infer the arguments of the authors' vocoder from its tensors' shapes.

    How far each stage lengthens its input and how far convolutions are dilated leaves no trace:
    kernels as released mean rates as released.

    Raises
    ------
    CheckpointError
        When a tensor that shows a size is missing, or the kernels are not the released ones.
    """
    shape = _Shapes(tensors, "vocoder", path)
    initial, mels = shape("conv_pre.weight")[:2]
    stages = shape.indices(r"ups\.(\d+)\.0\.weight")
    kernels = [shape(f"ups.{i}.0.weight")[2] for i in stages]
    per_stage = len(shape.indices(r"resblocks\.(\d+)\.convs1\.0\.weight")) // max(len(stages), 1)
    convolutions = len(shape.indices(r"resblocks\.0\.convs1\.(\d+)\.weight"))
    dilations = RELEASED_VOCODER["resblock_dilation_sizes"]
    if (kernels, convolutions) != (RELEASED_VOCODER["upsample_kernel_sizes"], len(dilations)):
        raise CheckpointError(
            path,
            f"has a vocoder of other kernels than the released one, got {kernels} and "
            f"{convolutions} convolutions per block, whose rates cannot be told from the tensors. "
            "Give its config.json",
        )
    return {
        **RELEASED_VOCODER,
        "num_mels": mels,
        "upsample_initial_channel": initial,
        "resblock_kernel_sizes": [
            shape(f"resblocks.{i}.convs1.0.weight")[2] for i in range(per_stage)
        ],
        "resblock_dilation_sizes": [dilations] * per_stage,
    }


class _Shapes:
    """Looks up shapes by name; an absent tensor is an error that says what was expected."""

    def __init__(self, tensors: Mapping[str, Tensor], network: str, path: Path | str) -> None:
        self.tensors, self.network, self.path = tensors, network, path

    def __call__(self, name: str) -> tuple[int, ...]:
        if name not in self.tensors:
            raise CheckpointError(
                self.path,
                f"has no tensor {name!r}, got {sorted(self.tensors)[:4]} and more; expected the "
                f"{self.network} of FlowSep",
                missing=[name],
            )
        return tuple(self.tensors[name].shape)

    def indices(self, pattern: str) -> list[int]:
        """Return the sorted numbers that the pattern's group takes in the names."""
        found = (re.match(pattern, name) for name in self.tensors)
        return sorted({int(match[1]) for match in found if match})
