"""A full checkpoint: all networks in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.storage.files import whole_file
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor

from rectiflow_audio.flow import SIGMA_MIN
from rectiflow_audio.networks.keys import unet_keys, vae_keys
from rectiflow_audio.networks.official_sizes import read_yaml, unet_sizes, vae_sizes
from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.networks.vae import SpectrogramVae, VaeConfig
from rectiflow_audio.networks.vocoder import BigVgan
from rectiflow_audio.weights.accounting import (
    Check,
    empty,
    filled,
    fitting,
    nothing,
    raise_together,
)
from rectiflow_audio.weights.parts import AVERAGED, TEXT, UNET, VAE, VOCODER, Parts, split
from rectiflow_audio.weights.text import text_state
from rectiflow_audio.weights.unet import (
    flat,
    unet_to_official,
    unflattened,
    without_unused_outputs,
)
from rectiflow_audio.weights.vae import scale_of, vae_to_official
from rectiflow_audio.weights.vocoder import read_vocoder

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline


@dataclass(frozen=True)
class OfficialFlowSep:
    """What a full checkpoint holds.

    Attributes
    ----------
    unet : SeparationUNet
        Averaged, or as trained.
    vae : SpectrogramVae
        With the scale factor of the latents.
    vocoder : BigVgan
    text_encoder_state : dict of str to Tensor, or None
        Tensors of the FLAN-T5 encoder, by the names of ``transformers.T5EncoderModel``; None where
        the file has none.
    config : dict
        ``sigma_min``, ``averaged``, and ``official``: the authors' yaml, if one was given.
    """

    unet: SeparationUNet
    vae: SpectrogramVae
    vocoder: BigVgan
    text_encoder_state: dict[str, Tensor] | None
    config: dict[str, Any]


def load_official(
    path: Path | str,
    *,
    config: Path | str | None = None,
    vocoder_config: Mapping[str, Any] | None = None,
    ema: bool = True,
    keep_unused_outputs: bool = False,
) -> OfficialFlowSep:
    """Read the authors' full checkpoint; no code in the file is executed.

    Every tensor is accounted for: it is used, or known to be of use for training only.

    Parameters
    ----------
    path : Path or str
        Such as ``v2_100k.ckpt``.
    config : Path or str, optional
        The authors' yaml. Without it, sizes come from the tensors' shapes, and what leaves no
        trace in them (attention heads of 32 channels) is as released.
    vocoder_config : mapping, optional
        The vocoder's ``config.json``. Without it, sizes come from the shapes likewise.
    ema : bool
        Take the averaged UNet, as the authors do for sampling; else the UNet as trained.
    keep_unused_outputs : bool
        The released UNet has twice the outputs that count. The others are left out unless asked
        for.

    Returns
    -------
    OfficialFlowSep
        Networks in evaluation mode, float32, on the CPU.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is damaged, or tensors are missing, unknown or of another shape; the message
        lists them by network.
    """
    official = {} if config is None else read_yaml(config)
    parts = split(load_tensors(path))
    checks = [Check("other tensors", unexpected=parts.unknown)]
    unet_check, vae_check, vocoder_check = Check("UNet"), Check("autoencoder"), Check("vocoder")
    checks += [unet_check, vae_check, vocoder_check]
    _demand_networks(parts, path, ema)

    arguments = official.get("unet")
    sizes = UNetConfig.from_official(arguments) if arguments else unet_sizes(parts.unet, path)
    unet = empty(lambda: SeparationUNet(sizes))
    keys = unet_keys(unet)
    tensors = unflattened(parts.averaged, keys.values(), unet_check) if ema else parts.unet
    unet_state = fitting(unet, keys, tensors, unet_check)

    arguments = official.get("vae")
    vae = empty(
        lambda: SpectrogramVae(
            VaeConfig.from_official(arguments) if arguments else vae_sizes(parts.vae, path)
        )
    )
    vae_state = fitting(vae, vae_keys(vae), parts.vae, vae_check)
    if parts.scale_factor is None:
        vae_check.missing.append("scale_factor")

    vocoder, vocoder_state = read_vocoder(parts.vocoder, vocoder_config, vocoder_check, path)
    text = text_state(parts.text, checks) if parts.text else None
    raise_together(checks, path)

    assert parts.scale_factor is not None
    vae_state["scale_factor"] = torch.tensor(scale_of(parts.scale_factor, path))
    unet = filled(unet, unet_state)
    return OfficialFlowSep(
        unet=unet if keep_unused_outputs else without_unused_outputs(unet),
        vae=filled(vae, vae_state),
        vocoder=filled(vocoder, vocoder_state),
        text_encoder_state=text,
        config={"sigma_min": SIGMA_MIN, "averaged": ema, "official": official.get("document")},
    )


def to_official(
    model: OfficialFlowSep, *, rest: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the tensors of a full checkpoint under the authors' names.

    Save them as ``{"state_dict": to_official(model)}``. The UNet is written twice, as trained and
    averaged, with as many outputs as inputs: those that were left out are zeros, as released.

    Parameters
    ----------
    model : OfficialFlowSep
        The networks.
    rest : mapping of str to Tensor, optional
        Tensors of an official checkpoint, which fill in what only its training needs (schedules,
        losses). The authors' loader is strict and asks for them.
    """
    written = dict(rest or {})
    unet = unet_to_official(model.unet)
    written |= {UNET + name: tensor for name, tensor in unet.items()}
    written |= {AVERAGED + flat(name): tensor for name, tensor in unet.items()}
    written |= {VAE + name: tensor for name, tensor in vae_to_official(model.vae).items()}
    written |= {VAE + VOCODER + name: value for name, value in model.vocoder.state_dict().items()}
    if model.text_encoder_state is not None:
        written |= {TEXT + name: value for name, value in model.text_encoder_state.items()}
    written["scale_factor"] = model.vae.scale_factor
    written.setdefault("model_ema.decay", torch.tensor(0.9999))
    written.setdefault("model_ema.num_updates", torch.tensor(0, dtype=torch.int32))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in written.items()}


def save_official(
    pipe: SeparationPipeline, path: Path, *, rest: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a pipeline with a vocoder for the authors' code; ``rest`` as :func:`to_official`."""
    assert pipe.vocoder is not None and isinstance(pipe.vae, SpectrogramVae)
    model = OfficialFlowSep(pipe.unet, pipe.vae, pipe.vocoder, None, {})
    with whole_file(path) as part:
        torch.save({"state_dict": to_official(model, rest=rest)}, part)
    return path


def _demand_networks(parts: Parts, path: Path | str, ema: bool) -> None:
    """Say plainly that a whole network is absent, before every one of its tensors is listed."""
    if ema and not parts.averaged:
        raise CheckpointError(
            path,
            "has no averaged UNet (model_ema.*), which the authors sample with. Pass ema=False "
            "for the UNet as trained",
        )
    for name, found in (("UNet", parts.unet), ("autoencoder", parts.vae)):
        if not found:
            raise CheckpointError(path, nothing(name, f"{UNET if name == 'UNet' else VAE}*"))
    if not parts.vocoder:
        raise CheckpointError(path, nothing("vocoder", f"{VAE}{VOCODER}*"))
