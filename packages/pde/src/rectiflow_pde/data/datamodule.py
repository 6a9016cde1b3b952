"""Prepared flows as the data of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import drawn

from rectiflow_pde.data.prepared import PreparedFlows
from rectiflow_pde.data.rasters import RasteredFlows
from rectiflow_pde.data.windows import FlowWindows, collate
from rectiflow_pde.raster import Raster
from rectiflow_pde.scaling import Scaling
from rectiflow_pde.trajectory import Trajectory

MANIFEST = "manifest.json"


def prepared(folder: str | Path) -> list[PreparedFlows]:
    """Open a folder of prepared flows, or all such folders inside of one."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return [PreparedFlows(folder)]
    inside = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    return [PreparedFlows(path) for path in inside] or [PreparedFlows(folder)]


def flows_of(folder: str | Path, split: str) -> list[Trajectory]:
    """Return the flows of a split."""
    return [flows[int(row)] for flows in prepared(folder) for row in flows.rows(split)]


class SimulationData(FlowData):
    """Stretches of the train split on a raster, and the first frames' of the valid split.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare`` or ``solve``, or a folder of several.
    batch_size : int
        Flows per rank and step.
    raster : Raster, optional
    frames : int
        Of a stretch.
    step : float, optional
        Seconds between its frames; if absent the longest that any flow has.
    paces : sequence of float
        Speeds of the stretches of flows in finer steps, see
        :class:`~rectiflow_pde.data.rasters.RasteredFlows`.
    seed : int
        Of the stretches and their order.
    **loader
        As for :class:`~rectiflow.training.data.FlowData`.

    Attributes
    ----------
    scaling : Scaling
        Measured on the train split; fields are in units of the inflow.
    held_out : list of Trajectory
        The flows of the valid split.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 8,
        *,
        raster: Raster | None = None,
        frames: int = 24,
        step: float | None = None,
        paces: Sequence[float] = (1.0,),
        seed: int = 0,
        **loader: Any,
    ) -> None:
        flows = flows_of(folder, "train")
        self.held_out = held_out = flows_of(folder, "valid")
        require(flows, folder)
        self.raster, self.frames = raster or Raster(), frames
        self.scaling = Scaling.of(flows)
        self.frame_step = max(flow.frame_step for flow in flows) if step is None else step
        told = self.raster, self.scaling, frames
        dataset = RasteredFlows(flows, *told, step=self.frame_step, paces=paces, seed=seed)
        held = None
        if held_out:
            held = HeldOut(RasteredFlows(held_out, *told, step=self.frame_step), batch_size)
        super().__init__(dataset, drawn(len(dataset), batch_size, seed), held, **loader)


class MeshData(FlowData):
    """Stretches of the train split at the nodes of their meshes, for the published networks.

    Parameters
    ----------
    folder, batch_size, frames, seed, **loader
        As for :class:`SimulationData`.
    """

    raster = None

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 1,
        *,
        frames: int = 25,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        flows, held_out = flows_of(folder, "train"), flows_of(folder, "valid")
        require(flows, folder)
        self.frames, self.frame_step = frames, step_of(flows)
        self.scaling = Scaling.of(flows, lengths=(1.6, 0.41), by_inflow=False)
        dataset = FlowWindows(flows, self.scaling, frames, seed=seed)
        held = None
        if held_out:
            held = HeldOut(FlowWindows(held_out, self.scaling, frames), batch_size, collate)
        batches = drawn(len(dataset), batch_size, seed)
        super().__init__(dataset, batches, held, collate_fn=collate, **loader)


def require(flows: Sequence[Trajectory], folder: str | Path) -> None:
    """Refuse a folder without training flows.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not flows:
        raise ValueError(
            f"{folder} has no flow in its train split; expected at least one. Solve or prepare "
            "more, or give --splits."
        )


def step_of(flows: Sequence[Trajectory]) -> float:
    """Return the seconds between frames, the same in all flows.

    Raises
    ------
    ValueError
        If they differ.
    """
    steps = {flow.frame_step for flow in flows}
    if len(steps) > 1:
        raise ValueError(
            f"frames are {min(steps):g} to {max(steps):g} s apart; expected one step in all flows. "
            "Prepare them with one."
        )
    return steps.pop()
