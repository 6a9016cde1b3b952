"""The authors' checkpoints of TripoSG, read and written; every tensor is accounted for.

A folder holds ``transformer``, ``vae``, ``scheduler``, ``image_encoder_dinov2`` and
``feature_extractor_dinov2``. Class names in its configs are ignored: the released autoencoder
carries an older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.storage.files import write_json, write_tensors
from rectiflow.storage.pretrained import find_pretrained, require_same
from rectiflow.storage.reading import read_json
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor, nn

from rectiflow_shape.networks.dit import TripoSGDiT
from rectiflow_shape.networks.vae import TripoSGVae

if TYPE_CHECKING:
    from rectiflow_shape.networks.dinov2 import ImageEncoder
    from rectiflow_shape.pipeline import ShapePipeline

FILE = "diffusion_pytorch_model"
"""Of the weights of a part, before ``.safetensors`` or ``.fp16.safetensors``."""

_DIT = {
    "in_channels": "in_channels",
    "width": "width",
    "num_attention_heads": "heads",
    "num_layers": "layers",
    "cross_attention_dim": "context",
    "cross_attention_2_dim": "context_2",
}
_VAE = {
    "latent_channels": "latent_channels",
    "num_attention_heads": "heads",
    "width_encoder": "width_encoder",
    "width_decoder": "width_decoder",
    "num_layers_encoder": "layers_encoder",
    "num_layers_decoder": "layers_decoder",
    "embed_frequency": "frequencies",
    "embed_include_pi": "include_pi",
}
_RENAMED = (("ff.net.0.proj.", "ff.0."), ("ff.net.2.", "ff.2."), (".to_out.0.", ".out."))


def dit_from_official(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> TripoSGDiT:
    """Make a flow network of official tensors and the official constructor's arguments.

    Raises
    ------
    CheckpointError
        When tensors are missing, unknown or of another shape.
    """
    told = dict(config) if config.get("use_cross_attention_2") else {**config, **_ONE_CONTEXT}
    return _filled(TripoSGDiT, _sizes(told, _DIT), tensors)


def vae_from_official(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> TripoSGVae:
    """Make an autoencoder likewise."""
    return _filled(TripoSGVae, _sizes(config, _VAE), tensors)


def expected(config: Mapping[str, Any], is_vae: bool) -> dict[str, torch.Size]:
    """Return the official names and shapes that a network of an official config has."""
    sizes = _sizes(config, _VAE if is_vae else _DIT)
    with torch.device("meta"):
        empty = TripoSGVae(**sizes) if is_vae else TripoSGDiT(**sizes)
    return {name: value.shape for name, value in to_official(empty).items()}


def to_official(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's tensors under the official names, with the rows in their order."""
    heads, found = int(network.config["heads"]), {}  # type: ignore[index]
    for name, value in network.state_dict().items():
        stem, _, last = name.rpartition(".attn")
        last = last.partition(".")[2]
        prefix = name.removesuffix(last)
        if stem and last == "qkv.weight":
            parts = _mixed(value, heads, 3)
        elif stem and last == "kv.weight":
            parts = _mixed(value, heads, 2)
        elif stem and last == "q.weight":
            parts = {"q": value}
        else:
            for theirs, ours in _RENAMED:
                name = name.replace(ours, theirs) if _is_block(name) else name
            found[name] = value
            continue
        found |= {f"{prefix}to_{part}.weight": rows for part, rows in parts.items()}
    return found


def load_official(path: Path | str) -> ShapePipeline:
    """Load the authors' folder.

    Parameters
    ----------
    path : Path or str
        Such as a snapshot of ``VAST-AI/TripoSG``. ``vae`` and ``transformer`` must be there.

    Raises
    ------
    FileNotFoundError
        When a part is not there.
    CheckpointError
        When one does not fit.
    """
    from rectiflow_shape.pipeline import ShapePipeline
    from rectiflow_shape.settings import ShapeSettings

    folder = Path(path)
    dit = dit_from_official(*_read(folder / "transformer"))
    vae = vae_from_official(*_read(folder / "vae"))
    image = _image_encoder(folder / "image_encoder_dinov2")
    schedule = folder / "scheduler" / "scheduler_config.json"
    shift = float(read_json(schedule).get("shift", 1.0)) if schedule.is_file() else 1.0
    settings = ShapeSettings(steps=50, guidance=7.0, tokens=2048, shift=shift, depth=8)
    return ShapePipeline(dit, vae, image, settings=settings)


def load_official_part(path: Path | str, part: str) -> nn.Module:
    """Load one part's own folder, or the part out of a whole one."""
    folder = Path(path)
    inner = folder / {"network": "transformer", "vae": "vae"}.get(part, "image_encoder_dinov2")
    where = inner if inner.is_dir() else folder
    if part == "image":
        found = _image_encoder(where)
        if found is None:
            raise FileNotFoundError(f"{where} lacks config.json; expected an image encoder.")
        return found
    make: Any = {"network": dit_from_official, "vae": vae_from_official}[part]
    made: nn.Module = make(*_read(where))
    return made


def image_encoder(weights: str | None) -> ImageEncoder | None:
    """Load a frozen image encoder to train beside; None where there is none.

    Parameters
    ----------
    weights : str, optional
        Folder or ``owner/name`` of DINOv2 as transformers keeps it, such as
        ``facebook/dinov2-large``, or the authors' folder of TripoSG, which holds one.
    """
    if weights is None:
        return None
    from rectiflow_shape.pipeline import ShapePipeline

    found: Any = load_official_part(find_pretrained(weights, ShapePipeline.shipped), "image")
    return found


def save_official(pipe: ShapePipeline, folder: Path | str) -> list[Path]:
    """Write flow network, autoencoder and schedule for the authors' code."""
    target, written = Path(folder), []
    parts = {"transformer": (pipe.network, _DIT), "vae": (pipe.vae, _VAE)}
    for name, (network, names) in parts.items():
        place = target / name
        place.mkdir(parents=True, exist_ok=True)
        config = {theirs: network.config[ours] for theirs, ours in names.items()}
        more: dict[str, Any] = {"in_channels": 3, "embedding_type": "frequency"}
        if name == "transformer":
            more = {"use_cross_attention_2": config["cross_attention_2_dim"] is not None}
        tensors = {key: value.contiguous() for key, value in to_official(network).items()}
        write_tensors(place / f"{FILE}.safetensors", tensors, {"format": "pt"})
        write_json(place / "config.json", config | more)
        written += [place / "config.json", place / f"{FILE}.safetensors"]
    place = target / "scheduler"
    place.mkdir(parents=True, exist_ok=True)
    told = {"num_train_timesteps": 1000, "shift": pipe.settings.shift}
    write_json(place / "scheduler_config.json", told | {"use_dynamic_shifting": False})
    return [*written, place / "scheduler_config.json"]


_ONE_CONTEXT = {"cross_attention_2_dim": None}


def _sizes(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {ours: config[theirs] for theirs, ours in names.items() if theirs in config}


def _filled(kind: Any, sizes: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    with torch.device("meta"):
        made = kind(**sizes)
    require_same(_Official(made), tensors, f"official {kind.__name__}")
    made = made.to_empty(device="cpu")
    _plain_into(made.state_dict(), tensors, sizes["heads"])
    return made.eval()


class _Official:
    """A network seen under the official names."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def state_dict(self) -> dict[str, Tensor]:
        return to_official(self.network)


def _plain_into(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], heads: int) -> None:
    """Copy official tensors into a network's own, each head's rows together."""
    for name, value in own.items():
        stem, last = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        if last in ("qkv.weight", "kv.weight"):
            parts = [tensors[f"{stem}.to_{part}.weight"] for part in last.partition(".")[0]]
            mixed = torch.cat(parts)
            rows = mixed.view(heads, len(parts), -1, mixed.shape[-1]).transpose(0, 1)
            value.copy_(rows.reshape(mixed.shape))
        elif last == "q.weight":
            value.copy_(tensors[f"{stem}.to_q.weight"])
        else:
            for theirs, ours in _RENAMED:
                name = name.replace(ours, theirs) if _is_block(name) else name
            value.copy_(tensors[name])


def _mixed(value: Tensor, heads: int, parts: int) -> dict[str, Tensor]:
    """Split joined plain projections into the official ones, whose rows mix the heads."""
    rows = value.view(parts, heads, -1, value.shape[-1]).transpose(0, 1).reshape(value.shape)
    return dict(zip("qkv"[-parts:], rows.chunk(parts), strict=True))


def _is_block(name: str) -> bool:
    return ".ff." in name or ".attn" in name


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the config of a part."""
    names = [f"{FILE}.safetensors", f"{FILE}.fp16.safetensors", "model.safetensors"]
    there = [folder / name for name in names if (folder / name).is_file()]
    if not there or not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} lacks config.json or {names[0]}; expected both, as in the authors' folder. "
            "Files of pickled weights (.bin) are not read."
        )
    tensors = {name: value.float() for name, value in load_tensors(there[0]).items()}
    return tensors, read_json(folder / "config.json")


def _image_encoder(folder: Path) -> ImageEncoder | None:
    """Return the image encoder of a folder; None where there is none."""
    if not (folder / "config.json").is_file():
        return None
    from transformers import Dinov2Model

    from rectiflow_shape.networks.dinov2 import ImageEncoder

    config = read_json(folder / "config.json")
    encoder = ImageEncoder({k: v for k, v in config.items() if k in _DINO})
    # Names of its tensors differ between versions of transformers, which knows them all.
    loaded: Any = Dinov2Model.from_pretrained(
        folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
    )
    model, found = loaded
    strange = [*found["missing_keys"], *found["unexpected_keys"], *found["mismatched_keys"]]
    if strange:
        raise CheckpointError(folder, f"does not fit DINOv2, got {sorted(map(str, strange))[:8]}")
    encoder.model.load_state_dict(model.state_dict())
    return encoder


_DINO = frozenset(
    {
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "image_size"),
        *("patch_size", "qkv_bias", "layerscale_value", "use_swiglu_ffn", "layer_norm_eps"),
        *("hidden_act", "num_channels"),
    }
)
