"""How the network is trained: what the generic commands read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rectiflow.training.recipe import Recipe

from rectiflow_trajectories.objective import DiffusionObjective
from rectiflow_trajectories.pipeline import TrajectoryPipeline
from rectiflow_trajectories.settings import TrajectorySettings

if TYPE_CHECKING:
    from rectiflow.training.recipe import Built, Save
    from rectiflow.training.validation import Evaluate


class TrajectoryRecipe(Recipe):
    """Trains EGTN on prepared windows, as a flow or as the authors' diffusion, or on pairs."""

    keys = ("sampling",)
    shown = ("train/loss", "val/loss", "val/ade")

    def set_up(self, built: Built) -> None:
        """Check that data and network fit."""
        network: Any = built.training.network
        prepared: Any = getattr(built.data, "prepared", None)
        if prepared is None:
            return
        record = built.data.dataset[0]
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

    def evaluate(self, built: Built) -> Evaluate | None:
        """Return what forecasts held-out windows, if it is wanted and there are any."""
        prepared: Any = getattr(built.data, "prepared", None)
        wanted = built.cfg.validation
        if "_target_" not in wanted or prepared is None or not len(prepared.rows("valid")):
            return None
        looks = built.build(wanted)
        looks.prepared, looks.settings = prepared, settings_of(built)
        return looks

    def export(self, built: Built, save: Save) -> None:
        """Save the network with what it is to be used with."""
        network: Any = built.training.network
        save(TrajectoryPipeline(network, settings=settings_of(built)))

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command that measures what was trained, or forecasts with it."""
        network: Any = built.training.network
        verb = "forecast FILE" if network.given else "sample SHARDS"
        return f"rectiflow trajectories {verb} --weights {folder} -o made"


def settings_of(built: Built) -> TrajectorySettings:
    """Return what an exported network is to be used with: as its teacher, or as it was trained."""
    cfg, data = built.cfg, built.data
    told = {name: value for name, value in cfg.get("sampling", {}).items() if value is not None}
    prepared: Any = getattr(data, "prepared", None)
    if "weights" in list(cfg.network):
        own: TrajectorySettings = TrajectoryPipeline.from_pretrained(cfg.weights).settings
        own = replace(own, diffusion=0, rescale=False) if prepared is None else own
        return replace(own, **told)
    if prepared is None:  # pairs that mean nothing
        return TrajectorySettings(**told)
    objective: Any = built.training.objective
    told |= {name: prepared.told(name) for name in ("kind", "dimensions", "unit")}
    told["scale"] = float(cfg.data.module.scale)
    if isinstance(objective, DiffusionObjective):
        told |= {"diffusion": objective.diffusion.steps, "rescale": objective.diffusion.rescale}
    else:
        told["noise"] = float(objective.flow.noise.scale)
    return TrajectorySettings(**told)


RECIPE = TrajectoryRecipe("trajectories", TrajectoryPipeline)
