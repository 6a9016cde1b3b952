"""``rectiflow audio train``: autoencoder, vocoder or flow, from a composed config."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli import train
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rectiflow.training import FlowData, FlowTraining
    from rectiflow.training.validation import Evaluate
    from rectiflow_audio.objective import SeparationObjective
    from rectiflow_audio.pipeline import SeparationSettings

log = logging.getLogger(__name__)

KEYS = ("vae", "vocoder", "text", "sampling")
"""What may stand at the top of a config beside the keys of every domain."""

_SCALE_FROM = 64  # training examples that tell the spread of an autoencoder's latents

_AFTER = {
    "SpectrogramVae": "rectiflow audio train data.dir={data} vae.weights={folder} experiment=small",
    "BigVgan": "rectiflow audio train data.dir={data} vocoder.weights={folder} vae.weights=CODEC",
    "SeparationUNet": 'rectiflow audio separate MIX.wav --query "a dog barks" --weights {folder} '
    "-o dog.wav",
}
"""What can be done with each kind of network."""


def main(argv: list[str]) -> int:
    """Train by ``configs/audio/train.yaml`` with the overrides."""
    return run("train", argv)


def run(config: str, argv: Sequence[str]) -> int:
    """Train by a primary config of ``configs/audio`` with the overrides."""
    return train.run(RECIPE, config, argv)


def _require(cfg: DictConfig) -> None:
    """Refuse a flow without an autoencoder."""
    from omegaconf import OmegaConf

    # Hydra says that a key is absent when its value is missing; the list of keys has it.
    needs = "vae" in list(cfg.training.objective)
    if needs and OmegaConf.is_missing(cfg.vae, "weights"):
        raise UsageError(
            "vae.weights is not given; expected the autoencoder of the latents, such as "
            "vae.weights=small, vae.weights=runs/audio-train/DATE/export of an experiment=..._vae, "
            "or the authors' file."
        )


def _set_up(cfg: DictConfig, training: FlowTraining, data: FlowData) -> None:
    """Check that the parts of a flow fit together, and that its latents have unit spread."""
    from hydra.utils import instantiate
    from rectiflow_audio.networks import SeparationUNet

    network: Any = training.network
    if not isinstance(network, SeparationUNet):
        return
    instantiate(cfg.vocoder, _convert_="all")  # it goes into the export: absent files are told now
    context = data.dataset[0]
    width = int(context.get("context", context.get("cond.context")).shape[-1])
    if width != network.sizes.context_channels:
        raise UsageError(
            f"queries have {width} channels, got a network for {network.sizes.context_channels}; "
            f"expected the same. Prepare the data with the text encoder of the network, or set "
            f"network.sizes.context_channels={width}."
        )
    objective: Any = training.objective
    vae = getattr(objective, "vae", None)
    if vae is not None and float(vae.scale_factor) == 1.0 and "target" in context:
        _scale(objective, data)


def _scale(objective: SeparationObjective, data: FlowData) -> None:
    """Bring the latents of an autoencoder that no flow has used to unit spread."""
    import torch

    dataset: Any = data.dataset
    waves = torch.stack([dataset[i]["target"] for i in range(min(_SCALE_FROM, len(dataset)))])
    with torch.no_grad():
        parts = [
            objective.vae.encode(objective.spectrogram(part)).mean.flatten()
            for part in waves.split(8)
        ]
    spread = float(torch.cat(parts).std())
    objective.vae.scale_factor.fill_(1 / spread)
    log.info("latents spread by %.4f: scale factor %.4f", spread, 1 / spread)


def _evaluate(cfg: DictConfig, training: FlowTraining, data: FlowData) -> Evaluate | None:
    """Return what separates the held-out mixtures, if there are any and it is wanted."""
    from hydra.utils import instantiate
    from rectiflow_audio.data.datamodule import HeldOut

    if "_target_" not in cfg.validation or not isinstance(data.validation, HeldOut):
        return None
    objective: Any = training.objective
    return instantiate(
        cfg.validation, vae=objective.vae, mixtures=data.validation.dataset, _convert_="all"
    )


def _save(cfg: DictConfig, training: FlowTraining, folder: Path, card: Mapping[str, Any]) -> None:
    """Write what inference loads: the flow with all that it needs, or the one network."""
    import torch
    from hydra.utils import instantiate
    from rectiflow_audio.networks import SeparationUNet
    from rectiflow_audio.networks.vocoder import BigVgan

    from rectiflow_cli.audio.parts import without_weight_norm

    network: Any = training.network
    if isinstance(network, BigVgan):
        network = without_weight_norm(network)
    if not isinstance(network, SeparationUNet):
        network.save_pretrained(folder, **card)
        return
    from rectiflow_audio.pipeline import SeparationPipeline

    vae = getattr(training.objective, "vae", None)
    if vae is None:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(cfg.seed)
            vae = instantiate(cfg.vae, _convert_="all")
    vocoder = instantiate(cfg.vocoder, _convert_="all")
    settings = _settings(cfg, has_vocoder=vocoder is not None)
    SeparationPipeline(network, vae, vocoder, settings=settings).save_pretrained(folder, **card)


def _settings(cfg: DictConfig, *, has_vocoder: bool) -> SeparationSettings:
    """Return what the exported flow is to be used with: as its teacher, or as it was trained."""
    from rectiflow_audio.pipeline import SeparationPipeline, SeparationSettings

    if "weights" in cfg.network:
        settings = SeparationPipeline.from_pretrained(cfg.weights).settings
    else:
        plain = SeparationSettings()
        settings = SeparationSettings(
            text_encoder=cfg.text,
            window_seconds=cfg.data.module.get("window_seconds", plain.window_seconds),
            posterior_sample=cfg.training.objective.get("posterior_sample", plain.posterior_sample),
        )
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    return replace(settings, has_vocoder=has_vocoder, **told)


def _told(cfg: DictConfig) -> dict[str, Any]:
    return {"text_encoder": cfg.text, "codec": cfg.vae.get("weights")}


def _next(cfg: DictConfig, training: FlowTraining, folder: str) -> str:
    return _AFTER[type(training.network).__name__].format(
        folder=folder, data=cfg.data.dir or "SHARDS"
    )


RECIPE = train.Recipe(
    domain="audio",
    keys=KEYS,
    shown=("train/loss", "val/loss", "val/reconstruction", "val/mel", "val/si_sdr_improvement"),
    require=_require,
    set_up=_set_up,
    evaluate=_evaluate,
    save=_save,
    told=_told,
    next_step=_next,
)
