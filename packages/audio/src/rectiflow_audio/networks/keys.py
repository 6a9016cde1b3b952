"""Names of tensors and modules: ours, which are those of ``diffusers``, and the authors'."""

from __future__ import annotations

import re

from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.networks.vae import SpectrogramVae, VaeConfig

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_PARTS = {
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def unet_keys(network: SeparationUNet) -> dict[str, str]:
    """Return the authors' name of every tensor of a UNet, by our name."""
    return {name: unet_name(name, network.sizes) for name in network.state_dict()}


def vae_keys(network: SpectrogramVae) -> dict[str, str]:
    """Return the authors' name of every tensor of an autoencoder, by our name.

    ``scale_factor`` is not among them: the authors keep it beside the autoencoder.
    """
    names = (name for name in network.state_dict() if name != "scale_factor")
    return {name: vae_name(name, network.sizes) for name in names}


def unet_name(ours: str, sizes: UNetConfig) -> str:
    """Return the authors' name of a tensor or module of :class:`SeparationUNet`.

    Their blocks are numbered through: a level has one for each residual block and one for the
    change of resolution, which going up is the last part of a residual block's.

    Examples
    --------
    >>> unet_name("unet.down_blocks.1.attentions.3.norm.weight", UNetConfig())
    'input_blocks.5.2.norm.weight'
    >>> unet_name("unet.up_blocks.0.upsamplers.0.conv.bias", UNetConfig())
    'output_blocks.2.3.conv.bias'
    """
    name = ours.removeprefix("unet.")
    for diffusers, official in _UNET_ENDS.items():
        if name == diffusers or name.startswith(f"{diffusers}."):
            return official + name[len(diffusers) :]
    place, kind, index, rest = _parts(ours, name)
    if place == "mid_block":
        block, part = "middle_block", 3 * index if kind == "resnets" else 1 + index
        return f"{block}.{part}{_residual(rest) if kind == 'resnets' else rest}"
    side, number = place.split(".")
    level, stride = int(number), sizes.blocks + 1
    first = level * stride + (1 if side == "down_blocks" else 0)
    blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
    if kind == "resnets":
        return f"{blocks}.{first + index}.0{_residual(rest)}"
    if kind == "attentions":
        return f"{blocks}.{first + index // 2}.{1 + index % 2}{rest}"
    last = first + sizes.blocks
    if kind == "downsamplers":
        return f"{blocks}.{last}.0{rest.replace('.conv', '.op', 1)}"
    attends = sizes.attention[len(sizes.multipliers) - 1 - level]
    return f"{blocks}.{last}.{3 if attends else 1}{rest}"


def vae_name(ours: str, sizes: VaeConfig) -> str:
    """Return the authors' name of a tensor or module of :class:`SpectrogramVae`.

    Examples
    --------
    >>> vae_name("autoencoder.decoder.up_blocks.0.resnets.1.conv_shortcut.weight", VaeConfig())
    'decoder.up.2.block.1.nin_shortcut.weight'
    """
    name = ours.removeprefix("autoencoder.")
    for diffusers, official in _VAE_PARTS.items():
        name = re.sub(rf"\.{re.escape(diffusers)}(?=\.|$)", f".{official}", name)
    name = re.sub(r"\bmid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"\bdown_blocks\.", "down.", name)
    top = len(sizes.multipliers) - 1
    name = re.sub(r"\bup_blocks\.(\d+)", lambda m: f"up.{top - int(m[1])}", name)
    name = name.replace(".resnets.", ".block.").replace(".attentions.", ".attn.")
    return name.replace(".downsamplers.0", ".downsample").replace(".upsamplers.0", ".upsample")


def _parts(ours: str, name: str) -> tuple[str, str, int, str]:
    """Split a name inside a block into block, list, index in it, and what follows."""
    match = re.fullmatch(r"(mid_block|(?:down|up)_blocks\.\d+)\.([a-z]+)\.(\d+)((?:\..*)?)", name)
    if match is None:
        raise KeyError(f"no part of the UNet is called {ours!r}")
    return match[1], match[2], int(match[3]), match[4]


def _residual(rest: str) -> str:
    """Rename the part of a residual block, such as ``.conv1.weight``."""
    if not rest:
        return rest
    _, part, *tail = rest.split(".")
    return ".".join(["", _RESIDUAL[part], *tail])
