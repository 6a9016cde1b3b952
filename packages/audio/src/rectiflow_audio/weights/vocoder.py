"""The vocoder, with or without weight norm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor

from rectiflow_audio.networks.official_sizes import vocoder_arguments
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig, fold_weight_norm
from rectiflow_audio.weights.accounting import (
    Check,
    filled,
    fitting,
    nothing,
    raise_together,
)
from rectiflow_audio.weights.parts import VAE, VOCODER


def load_official_vocoder(path: Path | str, *, config: Mapping[str, Any] | None = None) -> BigVgan:
    """Read the vocoder from ``g_01000000``, ``vae.ckpt`` or a full checkpoint.

    Weight norm, which the first of them has, is folded into the weights.

    Parameters
    ----------
    path : Path or str
        The file.
    config : mapping, optional
        The vocoder's ``config.json``; without it, sizes come from the tensors' shapes.

    Raises
    ------
    CheckpointError
        As :func:`load_official`, for the vocoder's tensors.
    """
    found = load_tensors(path)
    prefixes = (VAE + VOCODER, VOCODER, "generator.", "")
    prefix = next((p for p in prefixes if f"{p}conv_pre.bias" in found), None)
    if prefix is None:
        raise CheckpointError(path, nothing("vocoder", "conv_pre.*"))
    tensors = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
    check = Check("vocoder")
    vocoder, state = read_vocoder(tensors, config, check, path)
    raise_together([check], path)
    return filled(vocoder, state)


def read_vocoder_config(path: Path | str) -> dict[str, Any]:
    """Read a vocoder's ``config.json``.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When it is no JSON object.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is not a JSON file ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(path, "holds no JSON object; expected the config.json of a BigVGAN")
    return config


def read_vocoder(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None,
    check: Check,
    path: Path | str,
) -> tuple[BigVgan, dict[str, Tensor]]:
    """Return an empty vocoder and its tensors, weight norm folded."""
    try:
        plain = fold_weight_norm(tensors)
    except KeyError as error:
        raise CheckpointError(path, f"has a damaged vocoder: {error.args[0]}") from error
    vocoder = BigVgan(VocoderConfig.from_official(config or vocoder_arguments(plain, path)))
    return vocoder, fitting(vocoder, {name: name for name in vocoder.state_dict()}, plain, check)
