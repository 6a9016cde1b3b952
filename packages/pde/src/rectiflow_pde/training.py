"""How codec and flow are trained: what the generic commands read."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.training.recipe import Recipe

from rectiflow_pde.air import AirPipeline, AirSettings
from rectiflow_pde.guard import Guard
from rectiflow_pde.latent_objective import SurrogateObjective
from rectiflow_pde.networks import MeshAutoencoder
from rectiflow_pde.networks.air import AirNetwork
from rectiflow_pde.networks.circle import CircleUnet
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.simulator import FlowTransformer
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.raster import Raster
from rectiflow_pde.refinement import Refinement, Stepping
from rectiflow_pde.rollout import RolloutPipeline, RolloutSettings
from rectiflow_pde.scaling import Scaling
from rectiflow_pde.settings import SimulationSettings

if TYPE_CHECKING:
    from rectiflow.training import FlowData
    from rectiflow.training.recipe import Built, Config, Save
    from rectiflow.training.validation import Evaluate

log = logging.getLogger(__name__)

_GUARDED = 256
"""First frames that a guard keeps."""


class SimulationRecipe(Recipe):
    """Trains our flow and the authors' codec and diffusion, PDE-Refiner, and AirPhyNet."""

    keys = ("codec", "conditioner", "raster", "frames", "sampling")
    shown = ("train/loss", "val/loss", "val/relative", "val/relative_l2")

    def set_up(self, built: Built) -> None:
        """Fit a codec of patches to the data, and check that the parts fit together."""
        training = built.training
        objective: Any = training.objective
        codec = getattr(objective, "codec", None)
        if isinstance(codec, PatchCodec):
            dataset: Any = built.data.dataset
            if hasattr(dataset, "flows") and not codec.is_fitted:
                codec.fit(dataset.flows)
                log.info("fitted a codec of %d components", codec.sizes.latent)
            network: Any = training.network
            sizes = network.sizes
            wanted = (sizes.channels, *sizes.grid)
            if wanted != codec.latent_shape:
                raise ValueError(
                    f"the network is for latents of {wanted}, got a codec of {codec.latent_shape}; "
                    "expected the same. Set network.sizes or codec.sizes."
                )

    def evaluate(self, built: Built) -> Evaluate | None:
        """Return what simulates the held-out flows, if there are any and it is wanted."""
        wanted, data = built.cfg.validation, built.data
        if "_target_" not in wanted or data.validation is None:
            return None
        objective: Any = built.training.objective
        return built.build(wanted, codec=objective.codec, data=data)

    def export(self, built: Built, save: Save) -> None:
        """Save the flow with all that it needs, or the codec alone."""
        cfg, data = built.cfg, built.data
        network: Any = built.training.network
        objective: Any = built.training.objective
        if isinstance(network, MeshAutoencoder):
            return save(network)
        if isinstance(network, AirNetwork):
            names = ("scale", "history", "horizon", "step")
            air = AirSettings(**{name: getattr(data, name) for name in names})
            return save(AirPipeline(network, settings=air))
        if isinstance(network, CircleUnet):
            rolls = rollout_settings(objective.way, data)
            return save(RolloutPipeline(network, settings=rolls))
        parts: Any = (getattr(objective, k, None) for k in _PARTS)
        conditioner, guard, codec = parts
        codec = built.build(cfg.codec) if codec is None else codec
        before = None
        if "weights" in cfg.network:  # pairs and further training: the teacher's other parts
            before = SimulationPipeline.from_pretrained(cfg.weights)
        if before is not None:
            guard = before.guard
        elif isinstance(network, FlowTransformer) and hasattr(data, "scaling"):
            guard = guard_of(codec, data)
        settings = before.settings if before else settings_of(cfg, data)
        settings = replace(settings, guesses=isinstance(objective, SurrogateObjective))
        return save(SimulationPipeline(network, codec, conditioner, guard, settings=settings))

    def numbers(self, path: Path) -> np.ndarray:
        """Return the fields of a simulated flow, states of a rollout, or a forecast's values."""
        from rectiflow.storage.reading import read_rows

        from rectiflow_pde.result import read_npz

        if path.suffix == ".csv":
            return np.array([float(row["value"]) for _, row in read_rows(path, ("value",))])
        if path.name.startswith("rollout_"):
            with np.load(path, allow_pickle=False) as read:
                return read["u"]
        return read_npz(path).stacked

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command to go on with the network of this stage."""
        cfg, training = built.cfg, built.training
        if isinstance(training.network, MeshAutoencoder):
            return (
                f"rectiflow pde train data.dir={cfg.data.dir or 'SHARDS'} "
                f"experiment=text2pde_cylinder codec.weights={folder}"
            )
        if isinstance(training.network, AirNetwork):
            return f"rectiflow pde forecast {cfg.data.dir or 'FOLDER'} --weights {folder} -o ahead"
        if isinstance(training.network, CircleUnet):
            return f"rectiflow pde rollout STATE.npz --weights {folder} -o rollout"
        asked = '--prompt "flow past a cylinder of radius 0.05 at Re 120"'
        if not isinstance(training.network, FlowTransformer):
            asked = "--mesh channel.msh --first-frame frame.npz"
        return f"rectiflow pde simulate {asked} --weights {folder} -o flow"


_PARTS = ("conditioner", "guard", "codec")


def guard_of(codec: PatchCodec, data: FlowData) -> Guard:
    """Keep frames of the training flows as first ones, each as it is and upside down."""
    dataset: Any = data.dataset
    flows: list[torch.Tensor] = dataset.flows[: _GUARDED // 2]
    each = max(_GUARDED // (2 * len(flows)), 1)
    turn = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    kept, owner = [], []
    for i, flow in enumerate(flows):
        for at in np.linspace(0, flow.shape[-1] - 1, each).astype(int):
            kept += [flow[..., at], flow[..., at].flip(2) * turn]
            owner += [i, i]
    whole = torch.stack(kept)[..., None].expand(-1, -1, -1, -1, data.frames)  # type: ignore[attr-defined]
    return Guard.of(torch.cat([codec.encode(part) for part in whole.split(32)]), owner)


def rollout_settings(way: Stepping, data: FlowData) -> RolloutSettings:
    """Return what a stepping network is to be used with."""
    module: Any = data
    told: dict[str, Any] = {"refinements": 0}
    if isinstance(way, Refinement):
        told = {"refinements": way.steps, "smallest": way.smallest}
    told |= {name: (min(v := getattr(module, name)), max(v)) for name in ("spaces", "times")}
    return RolloutSettings(stride=module.stride, points=module.points, **told)


def settings_of(cfg: Config, data: FlowData) -> SimulationSettings:
    """Return what an exported flow is to be used with."""
    module: Any = data
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    if not hasattr(module, "scaling"):  # pairs without a teacher, in trials
        cells = cfg.codec.sizes.cells
        raster = None if isinstance(cells, int) else Raster(tuple(cells))
        return SimulationSettings(Scaling(), raster, **told)
    told |= {"frames": module.frames, "frame_step": module.frame_step}
    return SimulationSettings(module.scaling, module.raster, **told)


RECIPE = SimulationRecipe("pde", SimulationPipeline)
