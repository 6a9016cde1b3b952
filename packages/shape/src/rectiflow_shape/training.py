"""How autoencoder and flows are trained: what the generic commands read."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.training.recipe import Recipe

from rectiflow_shape.networks import MosaicTransformer, TripoSGDiT, TripoSGVae
from rectiflow_shape.networks.mosaic import GROUPS
from rectiflow_shape.pipeline import ShapePipeline
from rectiflow_shape.settings import ShapeSettings

if TYPE_CHECKING:
    from rectiflow.training import FlowData
    from rectiflow.training.recipe import Built, Config, Save
    from rectiflow.training.validation import Evaluate

log = logging.getLogger(__name__)

_AFTER = {
    "TripoSGVae": "train data.dir={data} vae.weights={folder} experiment=small_triposg",
    "TripoSGDiT": 'sample --weights {folder} --prompt "a low-poly chair" -o shapes',
    "MosaicTransformer": "sample --weights {folder} --num 4 -o shapes",
}
"""What can be done with each kind of network."""


_MEASURED = 256
"""About so many shapes tell the spread of the latents."""


class ShapeRecipe(Recipe):
    """Trains Mosaic-SDF, or TripoSG stage by stage: autoencoder, then flow; or a flow on pairs."""

    keys = ("vae", "image", "text", "sampling")
    shown = ("train/loss", "val/loss", "val/sdf", "val/normal")

    def check(self, cfg: Config) -> None:
        """Refuse a flow of latents without an autoencoder."""
        needs = "vae" in list(cfg.training.objective) and "tokens" in list(cfg.training.objective)
        weights = cfg.vae.get("weights", "") if "weights" in list(cfg.vae) else ""
        is_told = bool(cfg.data.module.get("pictures", False))
        has_encoder = "config" in cfg.image or bool(cfg.image.get("weights"))
        if needs and is_told != has_encoder:
            hint = "image=pretrained image.weights=facebook/dinov2-large"
            raise ValueError(
                "pictures and an image encoder go together, got "
                f"{'pictures' if is_told else 'an encoder'} alone; expected both. Set "
                f"{hint if is_told else 'data=pictures'}."
            )
        if needs and "TripoSGVae" not in str(cfg.vae.get("_target_", "")) and not weights:
            raise ValueError(
                "vae.weights is not given; expected the autoencoder of the latents, such as "
                "vae.weights=runs/shape-train/DATE of an experiment=..._vae, or the authors' "
                "folder."
            )

    def set_up(self, built: Built) -> None:
        """Check that data and network fit, and take the spreads of mosaics from the data."""
        training, data = built.training, built.data
        network: Any = training.network
        if not isinstance(network, MosaicTransformer | TripoSGDiT):
            return
        example = data.dataset[0]
        context = example.get("context", example.get("cond.context"))
        image = getattr(training.objective, "image", None)
        told = context.shape[-1] if context is not None else getattr(image, "width", None)
        width = network.config["context"]
        if told is not None and told != width:
            raise ValueError(
                f"{'texts' if image is None else 'images'} have {told} channels, got a network for "
                f"{width}; expected the same. Set network.context={told}."
            )
        if getattr(training.objective, "standard", False) and "surface" in example:
            objective: Any = training.objective
            total = len(data.dataset)  # type: ignore[arg-type]
            # Spread over all rows, which a folder has class by class.
            some = [data.dataset[i] for i in range(0, total, max(total // _MEASURED, 1))]
            batches = ({"surface": item["surface"][None]} for item in some)
            objective.measure(batches, torch.Generator().manual_seed(0))
        if not isinstance(network, MosaicTransformer) or "centres" not in example:
            return
        classes = getattr(data, "classes", ())
        if len(classes) > network.classes:
            raise ValueError(
                f"the data has {len(classes)} classes, got a network for {network.classes}; "
                f"expected as many. Set network.classes={len(classes)}."
            )
        if bool((network.spreads == 1).all()):
            items: Any = [data.dataset[i] for i in range(len(data.dataset))]  # type: ignore[arg-type]
            network.measure(*(torch.cat([item[name] for item in items]) for name in GROUPS))
            log.info("means %s, spreads %s", network.means.tolist(), network.spreads.tolist())

    def evaluate(self, built: Built) -> Evaluate | None:
        """Return what draws samples of a flow, if it is wanted."""
        cfg, training = built.cfg, built.training
        if "_target_" not in cfg.validation or isinstance(training.network, TripoSGVae):
            return None
        vae = getattr(training.objective, "vae", None)
        looks = built.build(cfg.validation, vae=vae)
        looks.settings = settings_of(cfg, built.data, training.network)
        return looks

    def export(self, built: Built, save: Save) -> None:
        """Save the flow with all that it needs, or the autoencoder alone."""
        cfg, training, build = built.cfg, built.training, built.build
        network: Any = training.network
        if isinstance(network, TripoSGVae):
            return save(network)
        vae = getattr(training.objective, "vae", None)
        if vae is None and isinstance(network, TripoSGDiT):
            vae = build(cfg.vae)
        image = getattr(training.objective, "image", None)
        if image is None and isinstance(network, TripoSGDiT):
            image = build(cfg.image)
        settings = settings_of(cfg, built.data, network)
        return save(ShapePipeline(network, vae, image, settings=settings))

    def numbers(self, path: Path) -> np.ndarray:
        """Return the vertices of a mesh."""
        from rectiflow_shape.io import read_mesh

        return read_mesh(path)[0].vertices

    def told(self, cfg: Config) -> dict[str, Any]:
        """Return the encoder of the captions."""
        return {"text_encoder": cfg.text}

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command to go on with the network of this stage."""
        cfg, training = built.cfg, built.training
        words = _AFTER[type(training.network).__name__]
        if getattr(training.objective, "image", None) is not None:
            words = "from-image photo.png --weights {folder} -o out.glb"
        return f"rectiflow shape {words.format(folder=folder, data=cfg.data.dir or 'SHARDS')}"


def settings_of(cfg: Config, data: FlowData, network: Any) -> ShapeSettings:
    """Return what an exported flow is to be used with: as its teacher, or as it was trained.

    A student of guided pairs has the guidance in it, and is used without.
    """
    if "weights" in list(cfg.network):
        settings = ShapePipeline.from_pretrained(cfg.weights).settings
        store = getattr(data, "store", None)
        if store is not None and store.metadata.get("guidance", 1.0) != 1.0:
            settings = replace(settings, guidance=1.0)
    else:
        example = data.dataset[0]  # a mosaic, a surface, or a pair of states
        tokens = next((len(example[name]) for name in ("centres", "x1") if name in example), None)
        settings = ShapeSettings(
            text_encoder=None if cfg.data.module.get("pictures", False) else cfg.text,
            classes=getattr(data, "classes", ()),
            tokens=tokens or int(cfg.training.objective.tokens),
        )
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    return replace(settings, **told)


RECIPE = ShapeRecipe("shape", ShapePipeline)
