"""How the network is trained: what the generic commands read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.training.recipe import Recipe

from rectiflow_trajectories.objective import DiffusionObjective
from rectiflow_trajectories.pipeline import TrajectoryPipeline
from rectiflow_trajectories.settings import TrajectorySettings

if TYPE_CHECKING:
    from rectiflow.training import FlowData, FlowTraining
    from rectiflow.training.recipe import Build, Config
    from rectiflow.training.validation import Evaluate


class TrajectoryRecipe(Recipe):
    """Trains EGTN on prepared windows, as a flow or as the authors' diffusion, or on pairs."""

    keys = ("sampling",)
    shown = ("train/loss", "val/loss", "val/ade")

    def set_up(self, cfg: Config, training: FlowTraining, data: FlowData, build: Build) -> None:
        """Check that data and network fit."""
        network: Any = training.network
        prepared: Any = getattr(data, "prepared", None)
        if prepared is None:
            return
        record = data.dataset[0]
        has = {
            "given": prepared.told("given"),
            "frames": prepared.told("frames"),
            "node_dim": record["nodes"].shape[-1],
            "edge_dim": record["edges"].shape[-1],
        }
        for name, value in has.items():
            if getattr(network, name) != value:
                raise ValueError(
                    f"the data has {name} {value}, got a network for {getattr(network, name)}; "
                    f"expected the same. Set network.{name}={value}, or prepare other windows."
                )

    def evaluate(
        self, cfg: Config, training: FlowTraining, data: FlowData, build: Build
    ) -> Evaluate | None:
        """Return what forecasts held-out windows, if it is wanted and there are any."""
        prepared: Any = getattr(data, "prepared", None)
        if "_target_" not in cfg.validation or prepared is None or not len(prepared.rows("valid")):
            return None
        looks = build(cfg.validation)
        looks.prepared, looks.settings = prepared, settings_of(cfg, training, data)
        return looks

    def export(
        self,
        cfg: Config,
        training: FlowTraining,
        data: FlowData,
        folder: Path,
        card: Mapping[str, Any],
        build: Build,
    ) -> None:
        """Write the network with what it is to be used with."""
        network: Any = training.network
        pipe = TrajectoryPipeline(network, settings=settings_of(cfg, training, data))
        pipe.save_pretrained(folder, **card)

    def next_step(self, cfg: Config, training: FlowTraining, folder: str) -> str:
        """Return the command that measures what was trained, or forecasts with it."""
        network: Any = training.network
        verb = "forecast FILE" if network.given else "sample SHARDS"
        return f"rectiflow trajectories {verb} --weights {folder} -o made"


def settings_of(cfg: Config, training: FlowTraining, data: FlowData) -> TrajectorySettings:
    """Return what an exported network is to be used with: as its teacher, or as it was trained."""
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    prepared: Any = getattr(data, "prepared", None)
    if "weights" in list(cfg.network):
        own: TrajectorySettings = TrajectoryPipeline.from_pretrained(cfg.weights).settings
        own = replace(own, diffusion=0, rescale=False) if prepared is None else own
        return replace(own, **told)
    if prepared is None:  # pairs that mean nothing
        return TrajectorySettings(**told)
    objective: Any = training.objective
    told |= {name: prepared.told(name) for name in ("kind", "dimensions", "unit")}
    told["scale"] = float(cfg.data.module.scale)
    if isinstance(objective, DiffusionObjective):
        told |= {"diffusion": objective.diffusion.steps, "rescale": objective.diffusion.rescale}
    else:
        told["noise"] = float(objective.flow.noise.scale)
    return TrajectorySettings(**told)


RECIPE = TrajectoryRecipe("trajectories", TrajectoryPipeline)
