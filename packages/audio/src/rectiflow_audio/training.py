"""How autoencoder, vocoder and flow are trained: what the generic commands read."""

from __future__ import annotations

import logging
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.rectify.pair_data import PairData
from rectiflow.refiner import Refiner
from rectiflow.training.held_out import HeldOut
from rectiflow.training.recipe import Recipe

from rectiflow_audio.networks import SeparationUNet
from rectiflow_audio.networks.vocoder import BigVgan
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.settings import SeparationSettings

if TYPE_CHECKING:
    from rectiflow.training import FlowData
    from rectiflow.training.recipe import Built, Config, Save
    from rectiflow.training.validation import Evaluate

    from rectiflow_audio.networks import UNetConfig
    from rectiflow_audio.objective import SeparationObjective

log = logging.getLogger(__name__)

_SCALE_FROM = 64  # training examples that tell the spread of an autoencoder's latents

_AFTER = {
    "SpectrogramVae": "train data.dir={data} vae.weights={folder} experiment=small",
    "BigVgan": "train data.dir={data} vocoder.weights={folder} vae.weights=CODEC",
    "Refiner": 'separate MIX.wav --query "a dog barks" --weights {folder} --solver flowturbo:1:3 '
    "--steps 6 -o dog.wav",
    "SeparationUNet": 'separate MIX.wav --query "a dog barks" --weights {folder} -o dog.wav',
}
"""What can be done with each kind of network."""


class SeparationRecipe(Recipe):
    """Trains FlowSep stage by stage: autoencoder, optionally vocoder, flow; or a flow on pairs."""

    keys = ("vae", "vocoder", "text", "sampling")
    shown = ("train/loss", "val/loss", "val/reconstruction", "val/mel", "val/si_sdr_improvement")

    def check(self, cfg: Config) -> None:
        """Refuse a flow without an autoencoder."""
        # A key whose value is missing is said to be absent; the list of keys has it.
        needs = "vae" in list(cfg.training.objective)
        if needs and "weights" in list(cfg.vae) and cfg.vae.get("weights", "???") == "???":
            raise ValueError(
                "vae.weights is not given; expected the autoencoder of the latents, such as "
                "vae.weights=small, vae.weights=runs/audio-train/DATE of an experiment=..._vae, "
                "or the authors' file."
            )

    def set_up(self, built: Built) -> None:
        """Check that the parts of a flow fit together, and that its latents have unit spread."""
        training, data = built.training, built.data
        network: Any = training.network
        if not isinstance(network, SeparationUNet):
            return
        built.build(built.cfg.vocoder)  # it goes into the export: absent files are told now
        example = data.dataset[0]
        width = int(example.get("context", example.get("cond.context")).shape[-1])
        if width != network.sizes.context_channels:
            raise ValueError(
                f"queries have {width} channels, got a network for "
                f"{network.sizes.context_channels}; expected the same. Prepare the data with the "
                "text encoder of the network, or set "
                f"network.sizes.context_channels={width}."
            )
        objective: Any = training.objective
        vae = getattr(objective, "vae", None)
        if vae is not None and float(vae.scale_factor) == 1.0 and "target" in example:
            scale_latents(objective, data)

    def evaluate(self, built: Built) -> Evaluate | None:
        """Return what separates the held-out mixtures, if there are any and it is wanted."""
        held_out, wanted = built.data.validation, built.cfg.validation
        if "_target_" not in wanted or not isinstance(held_out, HeldOut):
            return None
        objective: Any = built.training.objective
        return built.build(wanted, vae=objective.vae, mixtures=held_out.dataset)

    def export(self, built: Built, save: Save) -> None:
        """Save the flow with all that it needs, or the one network."""
        cfg, training, build = built.cfg, built.training, built.build
        network: Any = training.network
        if isinstance(network, BigVgan):
            network = without_weight_norm(network)
        if isinstance(network, Refiner):  # it lies beside the weights that it refines
            save(SeparationPipeline.from_pretrained(cfg.weights))
            return save(network, "refiner")
        if not isinstance(network, SeparationUNet):
            return save(network)
        vae = getattr(training.objective, "vae", None)
        if vae is None:
            with torch.random.fork_rng(devices=()):
                torch.manual_seed(cfg.seed)
                vae = build(cfg.vae)
        vocoder = build(cfg.vocoder)
        settings = replace(settings_of(cfg, built.data), has_vocoder=vocoder is not None)
        return save(SeparationPipeline(network, vae, vocoder, settings=settings))

    def numbers(self, path: Path) -> np.ndarray:
        """Return the samples of a sound."""
        from rectiflow_audio.io import read_audio

        return read_audio(path).samples

    def told(self, cfg: Config) -> dict[str, Any]:
        """Return the encoder of the queries and where the autoencoder came from."""
        return {"text_encoder": cfg.text, "codec": cfg.vae.get("weights")}

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command to go on with the network of this stage."""
        words = _AFTER[type(built.training.network).__name__]
        told = {"folder": folder, "data": built.cfg.data.dir or "SHARDS"}
        return f"rectiflow audio {words.format(**told)}"


def settings_of(cfg: Config, data: FlowData | None = None) -> SeparationSettings:
    """Return what an exported flow is to be used with: as its teacher, or as it was trained.

    A student of guided pairs has the guidance in it, and is used without.
    """
    if "weights" in cfg.network:
        settings = SeparationPipeline.from_pretrained(cfg.weights).settings
        guided = isinstance(data, PairData) and data.store.metadata.get("guidance", 1.0) != 1.0
        settings = replace(settings, guidance=1.0) if guided else settings
    else:
        plain = SeparationSettings()
        settings = SeparationSettings(
            text_encoder=cfg.text,
            window_seconds=cfg.data.module.get("window_seconds", plain.window_seconds),
            posterior_sample=cfg.training.objective.get("posterior_sample", plain.posterior_sample),
        )
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    return replace(settings, **told)


def network_after(start: str, sizes: UNetConfig) -> SeparationUNet:
    """Make a network that starts from another's weights wherever name and shape agree.

    Parameters
    ----------
    start : str
        As for :meth:`SeparationPipeline.pretrained_part`.
    sizes : UNetConfig
        Of the new network.
    """
    network = SeparationUNet(sizes)
    before: Any = SeparationPipeline.pretrained_part(start)
    own, known = network.state_dict(), before.state_dict()
    network.load_state_dict(
        {
            name: known[name] if name in known and known[name].shape == value.shape else value
            for name, value in own.items()
        }
    )
    return network


def scale_latents(objective: SeparationObjective, data: FlowData) -> None:
    """Bring the latents of an autoencoder that no flow has used to unit spread."""
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


def weight_normed(vocoder: BigVgan) -> BigVgan:
    """Return a vocoder whose weights have a length and a direction, as the authors train it."""
    vocoder.apply_weight_norm()
    return vocoder


def without_weight_norm(vocoder: BigVgan) -> BigVgan:
    """Return a copy with plain weights; the vocoder itself stays as it is trained."""
    copied = BigVgan(vocoder.sizes)
    with torch.no_grad():
        for name, value in [*copied.named_parameters(), *copied.named_buffers()]:
            value.copy_(attrgetter(name)(vocoder))
    return copied


RECIPE = SeparationRecipe("audio", SeparationPipeline)
