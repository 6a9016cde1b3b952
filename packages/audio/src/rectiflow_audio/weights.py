"""The authors' checkpoints, read and written.

A full checkpoint is a Lightning file whose ``state_dict`` holds the UNet twice, as trained and
averaged, the autoencoder with the vocoder inside it, the text encoder, and leftovers of training.
The averaged UNet is the one that the authors sample with; it is stored under names without dots.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from rectiflow.storage.files import whole_file
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor, nn

from rectiflow_audio.flow import SIGMA_MIN
from rectiflow_audio.networks.keys import unet_keys, vae_keys
from rectiflow_audio.networks.official_sizes import (
    read_yaml,
    unet_sizes,
    vae_sizes,
    vocoder_arguments,
)
from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.networks.vae import SpectrogramVae, VaeConfig
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig, fold_weight_norm

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline

Network = TypeVar("Network", bound=nn.Module)
log = logging.getLogger(__name__)

UNET = "model.diffusion_model."
AVERAGED = "model_ema."
VAE = "first_stage_model."
VOCODER = "vocoder."
TEXT = "cond_stage_models.0.model."
FLATTENED = "diffusion_model"
"""What an averaged tensor's name starts with, followed by the UNet's name without its dots."""

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
    parts = _split(load_tensors(path))
    checks = [_Check("other tensors", unexpected=parts.unknown)]
    unet_check, vae_check, vocoder_check = _Check("UNet"), _Check("autoencoder"), _Check("vocoder")
    checks += [unet_check, vae_check, vocoder_check]
    _demand_networks(parts, path, ema)

    arguments = official.get("unet")
    sizes = UNetConfig.from_official(arguments) if arguments else unet_sizes(parts.unet, path)
    unet = _empty(lambda: SeparationUNet(sizes))
    keys = unet_keys(unet)
    tensors = _unflattened(parts.averaged, keys.values(), unet_check) if ema else parts.unet
    unet_state = _fitting(unet, keys, tensors, unet_check)

    arguments = official.get("vae")
    vae = _empty(
        lambda: SpectrogramVae(
            VaeConfig.from_official(arguments) if arguments else vae_sizes(parts.vae, path)
        )
    )
    vae_state = _fitting(vae, vae_keys(vae), parts.vae, vae_check)
    if parts.scale_factor is None:
        vae_check.missing.append("scale_factor")

    vocoder, vocoder_state = _vocoder(parts.vocoder, vocoder_config, vocoder_check, path)
    text = _text_state(parts.text, checks) if parts.text else None
    _raise_together(checks, path)

    assert parts.scale_factor is not None
    vae_state["scale_factor"] = parts.scale_factor.detach().float().clone()
    unet = _filled(unet, unet_state)
    return OfficialFlowSep(
        unet=unet if keep_unused_outputs else without_unused_outputs(unet),
        vae=_filled(vae, vae_state),
        vocoder=_filled(vocoder, vocoder_state),
        text_encoder_state=text,
        config={"sigma_min": SIGMA_MIN, "averaged": ema, "official": official.get("document")},
    )


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
    parts = _split(_prefixed(load_tensors(path)))
    official = {} if config is None else read_yaml(config)
    check = _Check("autoencoder", unexpected=[n for n in parts.unknown if n.startswith(VAE)])
    if not parts.vae:
        raise CheckpointError(path, _nothing("autoencoder", "encoder.* and decoder.*"))
    sizes = (
        VaeConfig.from_official(official["vae"])
        if official.get("vae")
        else vae_sizes(parts.vae, path)
    )
    vae = _empty(lambda: SpectrogramVae(sizes))
    state = _fitting(vae, vae_keys(vae), parts.vae, check)
    _raise_together([check], path)
    if scale_factor is None:
        scale_factor = 1.0 if parts.scale_factor is None else float(parts.scale_factor)
    state["scale_factor"] = torch.tensor(float(scale_factor))
    return _filled(vae, state)


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
        raise CheckpointError(path, _nothing("vocoder", "conv_pre.*"))
    tensors = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
    check = _Check("vocoder")
    vocoder, state = _vocoder(tensors, config, check, path)
    _raise_together([check], path)
    return _filled(vocoder, state)


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
    written |= {AVERAGED + _flat(name): tensor for name, tensor in unet.items()}
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
    assert pipe.vocoder is not None
    model = OfficialFlowSep(pipe.unet, pipe.vae, pipe.vocoder, None, {})
    with whole_file(path) as part:
        torch.save({"state_dict": to_official(model, rest=rest)}, part)
    return path


def unet_from_official(
    tensors: Mapping[str, Tensor], sizes: UNetConfig | None = None
) -> SeparationUNet:
    """Make a UNet from tensors under the authors' names, all of its outputs kept."""
    unet = _empty(lambda: SeparationUNet(sizes or unet_sizes(tensors, "tensors")))
    check = _Check("UNet")
    state = _fitting(unet, unet_keys(unet), tensors, check)
    _raise_together([check], "tensors")
    return _filled(unet, state)


def unet_to_official(unet: SeparationUNet) -> dict[str, Tensor]:
    """Return a UNet's tensors under the authors' names, with as many outputs as inputs."""
    state = unet.state_dict()
    written = {official: state[ours] for ours, official in unet_keys(unet).items()}
    lacking = 2 * unet.sizes.latent_channels - unet.sizes.out_channels
    if lacking > 0:
        for name in ("out.2.weight", "out.2.bias"):
            zeros = written[name].new_zeros(lacking, *written[name].shape[1:])
            written[name] = torch.cat([written[name], zeros])
    return written


def vae_from_official(
    tensors: Mapping[str, Tensor], sizes: VaeConfig | None = None, scale_factor: float = 1.0
) -> SpectrogramVae:
    """Make an autoencoder from tensors under the authors' names."""
    vae = _empty(lambda: SpectrogramVae(sizes or vae_sizes(tensors, "tensors")))
    check = _Check("autoencoder")
    state = _fitting(vae, vae_keys(vae), tensors, check)
    _raise_together([check], "tensors")
    return _filled(vae, state | {"scale_factor": torch.tensor(float(scale_factor))})


def vae_to_official(vae: SpectrogramVae) -> dict[str, Tensor]:
    """Return an autoencoder's tensors under the authors' names; attention is by 1x1 convolution."""
    state = vae.state_dict()
    written = {}
    for ours, official in vae_keys(vae).items():
        tensor = state[ours]
        is_projection = ".attentions." in ours and tensor.ndim == 2
        written[official] = tensor[:, :, None, None] if is_projection else tensor
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
    smaller = _empty(lambda: SeparationUNet(replace(unet.sizes, out_channels=kept)))
    return _filled(smaller, state)


@dataclass
class _Check:
    """What was wrong with the tensors of one network."""

    title: str
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [
            f"{len(names)} {what} {_shortened(names)}"
            for names, what in (
                (self.missing, "missing"),
                (self.unexpected, "unknown"),
                (self.misshapen, "of another shape"),
            )
            if names
        ]
        return f"{self.title}: {', '.join(said)}" if said else ""


@dataclass
class _Parts:
    """Tensors of a full checkpoint by what they belong to, without their prefixes."""

    unet: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)
    vae: dict[str, Tensor] = field(default_factory=dict)
    vocoder: dict[str, Tensor] = field(default_factory=dict)
    text: dict[str, Tensor] = field(default_factory=dict)
    scale_factor: Tensor | None = None
    unknown: list[str] = field(default_factory=list)


def _split(tensors: Mapping[str, Tensor]) -> _Parts:
    parts = _Parts()
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


def _prefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of ``vae.ckpt`` the names that they have in a full checkpoint."""
    if any(name.startswith(VAE) for name in tensors):
        return tensors
    return {VAE + name: tensor for name, tensor in tensors.items()}


def _demand_networks(parts: _Parts, path: Path | str, ema: bool) -> None:
    """Say plainly that a whole network is absent, before every one of its tensors is listed."""
    if ema and not parts.averaged:
        raise CheckpointError(
            path,
            "has no averaged UNet (model_ema.*), which the authors sample with. Pass ema=False "
            "for the UNet as trained",
        )
    for name, found in (("UNet", parts.unet), ("autoencoder", parts.vae)):
        if not found:
            raise CheckpointError(path, _nothing(name, f"{UNET if name == 'UNet' else VAE}*"))
    if not parts.vocoder:
        raise CheckpointError(path, _nothing("vocoder", f"{VAE}{VOCODER}*"))


def _nothing(network: str, names: str) -> str:
    return (
        f"has no tensors of the {network}, got none named {names}; expected a checkpoint of "
        "FlowSep. Is this file for another network"
    )


def _flat(name: str) -> str:
    return FLATTENED + name.replace(".", "")


def _unflattened(
    averaged: Mapping[str, Tensor], names: Iterable[str], check: _Check
) -> dict[str, Tensor]:
    """Find each averaged tensor by its flattened name."""
    flat = {_flat(name): name for name in names}
    check.unexpected += [AVERAGED + name for name in averaged if name not in flat]
    return {flat[name]: tensor for name, tensor in averaged.items() if name in flat}


def _empty(make: Callable[[], Network]) -> Network:
    """Make a network whose parameters have shapes but no values, to be filled at once."""
    with torch.device("meta"):
        return make()


def _filled(network: Network, state: Mapping[str, Tensor]) -> Network:
    network.load_state_dict(dict(state), assign=True)
    return network.eval()


def _fitting(
    network: nn.Module, keys: Mapping[str, str], tensors: Mapping[str, Tensor], check: _Check
) -> dict[str, Tensor]:
    """Return copies of a network's tensors by its own names; what does not fit goes to check."""
    own, fitting = network.state_dict(), {}
    for ours, official in keys.items():
        if official not in tensors:
            check.missing.append(official)
        elif (tensor := tensors[official]).squeeze().shape != own[ours].squeeze().shape:
            check.misshapen.append(
                f"{official} {tuple(tensor.shape)} instead of {tuple(own[ours].shape)}"
            )
        else:  # attention by 1x1 convolution becomes a matrix
            fitting[ours] = tensor.detach().float().reshape(own[ours].shape).clone()
    known = set(keys.values())
    check.unexpected += [name for name in tensors if name not in known]
    return fitting


def _vocoder(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any] | None,
    check: _Check,
    path: Path | str,
) -> tuple[BigVgan, dict[str, Tensor]]:
    """Return an empty vocoder and its tensors, weight norm folded."""
    try:
        plain = fold_weight_norm(tensors)
    except KeyError as error:
        raise CheckpointError(path, f"has a damaged vocoder: {error.args[0]}") from error
    vocoder = BigVgan(VocoderConfig.from_official(config or vocoder_arguments(plain, path)))
    return vocoder, _fitting(vocoder, {name: name for name in vocoder.state_dict()}, plain, check)


def _text_state(tensors: Mapping[str, Tensor], checks: list[_Check]) -> dict[str, Tensor]:
    """Return a T5 encoder's tensors; of its two names for one table, a file may lack one."""
    tables = ("shared.weight", "encoder.embed_tokens.weight")
    state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    present = [name for name in tables if name in state]
    if present:
        for name in tables:
            state.setdefault(name, state[present[0]])
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.block.")}
    known = {*tables, "encoder.final_layer_norm.weight"}
    known.add("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    known |= {f"encoder.block.{i}.{part}.weight" for i in layers for part in _T5_LAYER}
    checks.append(_Check("text encoder", sorted(known - set(state)), sorted(set(state) - known)))
    return state


_T5_LAYER = (
    *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
    "layer.0.layer_norm",
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
    "layer.1.layer_norm",
)


def _raise_together(checks: Iterable[_Check], path: Path | str) -> None:
    wrong = [check for check in checks if str(check)]
    if wrong:
        raise CheckpointError(
            path,
            f"does not fit: {'; '.join(map(str, wrong))}. Is this file for the same networks and "
            "sizes",
            missing=[name for check in wrong for name in check.missing],
            unexpected=[name for check in wrong for name in check.unexpected],
        )


def _shortened(names: list[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"[{', '.join(names[:limit])}]{more}"
