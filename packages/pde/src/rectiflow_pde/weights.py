"""The authors' checkpoints of meshes, read and written; every tensor is accounted for.

Our modules have the authors' names, so that only prefixes differ. Kernel radii, the tokeniser and
the statistics of the data are not in their files: the released radii and RoBERTa's tokeniser are
taken, and statistics have to be given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rectiflow.storage.files import write_tensors
from rectiflow.storage.pretrained import CheckpointError, load_strict, load_tensors
from rectiflow.storage.table import read_table
from torch import Tensor, nn

from rectiflow_pde.flow import Diffusion
from rectiflow_pde.networks import (
    DitConfig,
    LatentTransformer,
    MeshAutoencoder,
    MeshConfig,
    MeshFrameConditioner,
    MeshFrameConfig,
    TextConditioner,
    TextConfig,
)
from rectiflow_pde.networks.convolution import ConvConfig
from rectiflow_pde.networks.text import TOKENIZER, tokenizer_bytes
from rectiflow_pde.networks.transforms import TransformConfig
from rectiflow_pde.scaling import Scaling
from rectiflow_pde.settings import SimulationSettings
from rectiflow_pde.trajectory import FIELDS

NETWORK, CODEC, CONDITIONER = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
TEXT = "embeddings."
"""How names of a conditioner by words begin."""
AE_RADIUS, FRAME_RADIUS = 0.0425, 0.05
HEADS = 16
SCALE = 0.2
"""Of latents, in all released models."""

_BUFFERS = re.compile(
    r"(betas|alphas_cumprod(_prev)?|(sqrt|log)_\w*alphas_cumprod|sqrt_recipm1_alphas_cumprod|"
    r"posterior_\w+|scale_factor|logvar|lvlb_weights|model_ema\.(decay|num_updates))"
)
_LOSS = ("loss.", f"{CODEC}loss.")
"""Networks that only the autoencoder's training needs."""

_ROBERTA = "roberta."
"""Before our names of the text encoder's tensors."""


def load_official(
    path: Path | str,
    *,
    statistics: Path | str | None = None,
    heads: int = HEADS,
    tokenizer: Path | str = TOKENIZER,
) -> dict[str, Any]:
    """Read the authors' diffusion of cylinders, told a first frame or words.

    Parameters
    ----------
    path : Path or str
        ``ldm_DiT_FF_cylinder.ckpt``, ``ldm_DiT_text_cylinder.ckpt`` or one like them.
    statistics : Path or str
        ``statistics.csv`` of prepared flows: mean and deviation of each field, which the authors
        keep in a pickle beside their data.
    heads : int
        Of attention, which shapes do not tell.
    tokenizer : Path or str
        Of a diffusion told words: a folder, or a name on the hub.

    Returns
    -------
    dict
        Arguments of :class:`~rectiflow_pde.pipeline.SimulationPipeline`.

    Raises
    ------
    CheckpointError
        When tensors are missing, too many, or of other shapes.
    FileNotFoundError
        When there is no such tokeniser.
    """
    path = Path(path)
    tensors = load_tensors(path)
    parts = {prefix: _under(tensors, prefix) for prefix in (NETWORK, CODEC, CONDITIONER)}
    lacking = [prefix for prefix, found in parts.items() if not found]
    if lacking:
        raise CheckpointError(path, f"has no tensors {', '.join(lacking)}*; expected all three")
    known = (NETWORK, CODEC, CONDITIONER, *_LOSS)
    other = [n for n in tensors if not n.startswith(known) and not _BUFFERS.fullmatch(n)]
    if other:
        raise CheckpointError(path, f"has tensors of no known part: {', '.join(other[:5])}")
    if statistics is None:
        raise ValueError(
            f"{path} does not hold mean and deviation of its fields; expected the statistics.csv "
            "of prepared flows of the same data. Add --statistics SHARDS/statistics.csv."
        )
    codec_state = {k: v for k, v in parts[CODEC].items() if not k.startswith("loss.")}
    return {
        "network": _filled(LatentTransformer, dit_sizes, parts[NETWORK], path, heads),
        "codec": _filled(MeshAutoencoder, mesh_sizes, codec_state, path),
        "conditioner": _conditioner(parts[CONDITIONER], path, tokenizer),
        "settings": official_settings(statistics),
    }


def load_official_codec(path: Path | str) -> MeshAutoencoder:
    """Read the authors' mesh autoencoder, ``ae_cylinder.ckpt``, or that of a diffusion.

    Raises
    ------
    CheckpointError
        As :func:`load_official`.
    """
    tensors = load_tensors(path)
    found = _under(tensors, CODEC) or dict(tensors)
    kept = {name: value for name, value in found.items() if not name.startswith("loss.")}
    return _filled(MeshAutoencoder, mesh_sizes, kept, Path(path))


def _conditioner(tensors: dict[str, Tensor], path: Path, tokenizer: Path | str) -> nn.Module:
    if not any(name.startswith(TEXT) for name in tensors):
        return _filled(MeshFrameConditioner, frame_sizes, tensors, path)
    tables = ("embeddings.position_ids", "embeddings.token_type_ids")  # older versions store them
    state = {_ROBERTA + name: value for name, value in tensors.items() if name not in tables}
    return _filled(TextConditioner, text_sizes, state | {"words": tokenizer_bytes(tokenizer)}, path)


def save_official(pipe: Any, path: Path) -> Path:
    """Write a diffusion with the authors' names, and the buffers of its schedule.

    Raises
    ------
    ValueError
        If the pipeline has other networks than the authors', or of what their files do not tell.
    """
    parts = pipe.network, pipe.codec, pipe.conditioner
    kinds: Any = (LatentTransformer, MeshAutoencoder, (MeshFrameConditioner, TextConditioner))
    if not all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=True)):
        raise ValueError(
            "these weights are of networks that the authors' code does not have; expected a "
            "diffusion in the latents of a mesh autoencoder. Leave --to out."
        )
    network, codec, frame = (part.sizes for part in parts)
    told = {
        "groups": codec.conv.groups == 16,
        "radii": codec.transform.radius == AE_RADIUS,
        "channels beside the latent": network.told == 0,
    }
    if isinstance(frame, MeshFrameConfig):
        known = frame.conv.groups, frame.transform.radius, frame.cells
        told["sizes of the conditioner"] = known == (16, FRAME_RADIUS, 32)
    if other := [name for name, same in told.items() if not same]:
        raise ValueError(
            f"these networks have other {' and '.join(other)} than the released ones, which the "
            "authors' files do not tell; expected theirs. Leave --to out."
        )
    tensors: dict[str, Tensor] = {}
    for prefix, part in zip((NETWORK, CODEC, CONDITIONER), parts, strict=True):
        state = {k: v for k, v in part.state_dict().items() if k not in ("scale", "words")}
        tensors |= {prefix + k.removeprefix(_ROBERTA): v.contiguous() for k, v in state.items()}
    diffusion = Diffusion()
    tables = {"betas": diffusion.betas, "alphas_cumprod": diffusion.alphas_cumprod}
    tensors |= {name: torch.from_numpy(value).float() for name, value in tables.items()}
    tensors["scale_factor"] = pipe.codec.scale.clone()
    write_tensors(path, tensors, {"format": "pt"})
    return path


def official_settings(statistics: Path | str) -> SimulationSettings:
    """Return how the released networks of cylinders are used, with the statistics of a folder."""
    table = read_table(Path(statistics), {"field": str, "mean": float, "std": float})
    order = [table["field"].tolist().index(name) for name in FIELDS]
    mean, std = (tuple(table[name][order].tolist()) for name in ("mean", "std"))
    scaling = Scaling(lengths=(1.6, 0.41), by_inflow=False, mean=mean, std=std)
    return SimulationSettings(scaling, frames=25, frame_step=0.24, steps=20)


def dit_sizes(tensors: Mapping[str, Tensor], heads: int = HEADS) -> DitConfig:
    """Tell the sizes of a transformer from its tensors; the grid is a cube."""
    patch = tensors["x_embedder.proj.weight"]
    count, width = tensors["pos_embed"].shape[1:]
    side = round(count ** (1 / 3))
    sides = tuple(side * p for p in patch.shape[2:])
    return DitConfig(
        grid=sides,
        patch=tuple(patch.shape[2:]),
        channels=patch.shape[1],
        width=width,
        depth=_count(tensors, r"blocks\.(\d+)\."),
        heads=heads,
        context=tensors["y_embedder.0.weight"].shape[1],
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
    )


def mesh_sizes(tensors: Mapping[str, Tensor]) -> MeshConfig:
    """Tell the sizes of a mesh autoencoder from its tensors."""
    conv = conv_sizes(_under(tensors, "encoder.cnn_encoder."), 3)
    fields = tensors["encoder.gino_encoder.x_projection.fcs.0.weight"].shape[1]
    transform = transform_sizes(_under(tensors, "encoder.gino_encoder."), AE_RADIUS)
    return MeshConfig(fields, tensors["latent_grid"].shape[1], transform, conv)


def frame_sizes(tensors: Mapping[str, Tensor]) -> MeshFrameConfig:
    """Tell the sizes of a conditioner from its tensors; the grid is the released one."""
    conv = conv_sizes(_under(tensors, "encoder.cnn_encoder."), 2, doubled=False)
    gno = _under(tensors, "encoder.gino_encoder.")
    tokens = tensors["head.weight"].shape[0]
    fields = gno["x_projection.fcs.0.weight"].shape[1]
    return MeshFrameConfig(fields, 32, tokens, transform_sizes(gno, FRAME_RADIUS), conv)


def text_sizes(tensors: Mapping[str, Tensor]) -> TextConfig:
    """Tell the sizes of a RoBERTa from its tensors and the bytes of its tokeniser."""
    names = ("word", "position", "token_type")
    tables = [tensors[f"{_ROBERTA}embeddings.{name}_embeddings.weight"] for name in names]
    layer = rf"{_ROBERTA}encoder\.layer\.(\d+)\."
    inner = tensors[f"{_ROBERTA}encoder.layer.0.intermediate.dense.weight"]
    words, places, segments = (len(table) for table in tables)
    width, depth = tables[0].shape[1], _count(tensors, layer)
    told = width, depth, len(inner), len(tensors["words"])
    return TextConfig(words, places, segments, *told)


def conv_sizes(tensors: Mapping[str, Tensor], dims: int, *, doubled: bool = True) -> ConvConfig:
    """Tell the sizes of a convolutional half from the tensors of an encoder."""
    hidden = tensors["conv_in.weight"].shape[0]
    levels = range(_count(tensors, r"down\.(\d+)\."))
    widths = [tensors[f"down.{i}.block.0.conv1.weight"].shape[0] for i in levels]
    return ConvConfig(
        hidden=hidden,
        multipliers=tuple(width // hidden for width in widths),
        blocks=_count(tensors, r"down\.0\.block\.(\d+)\."),
        latent=tensors["conv_out.weight"].shape[0] // (2 if doubled else 1),
        attention=tuple(i for i in levels if f"down.{i}.attn.0.q.weight" in tensors),
        dims=dims,
    )


def transform_sizes(tensors: Mapping[str, Tensor], radius: float) -> TransformConfig:
    """Tell the sizes of a kernel integral from its tensors."""
    embedding = 2 * tensors["pos_embed.linear.weight"].shape[0]
    count = _count(tensors, r"gno_in\.mlp\.fcs\.(\d+)\.")
    layers = [tensors[f"gno_in.mlp.fcs.{i}.weight"] for i in range(count)]
    kind = "linear" if layers[0].shape[1] == 2 * embedding else "nonlinear"
    return TransformConfig(radius, embedding, tuple(len(w) for w in layers[:-1]), kind)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = (re.match(pattern, name) for name in tensors)
    return max(int(match[1]) for match in found if match) + 1


def _filled(
    kind: Callable[[Any], nn.Module],
    sizes: Callable[..., Any],
    tensors: dict[str, Tensor],
    path: Path,
    *told: Any,
) -> Any:
    """Make a network of the tensors' sizes and give it them."""
    try:
        made = kind(sizes(tensors, *told))
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(path, f"is of no known form ({error})") from error
    kept = made.state_dict()
    extra = {"scale": kept["scale"]} if "scale" in kept else {}
    load_strict(made, {**tensors, **extra}, path)
    return made
