"""The card of trajectories: forecasts and what happened, moving side by side."""

from __future__ import annotations

import tempfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.commands import pick_device
from rectiflow.storage.pretrained import shipped_names

from rectiflow_cli.demo.card import Card, Metric, Request, numbers, settings_list
from rectiflow_cli.demo.page import asset

if TYPE_CHECKING:
    from rectiflow_trajectories import Trajectory, TrajectoryPipeline

HERE = Path(__file__).parent
ANIMATION = "trajectories/forecasts.gif"
NONE = """<p class="note"><strong>No trained network ships with this domain yet.</strong> Crosses
are constant velocity; <code>--weights FOLDER</code> shows a network of yours.</p>"""
GIVEN, FRAMES, EVERY = 5, 10, 200
"""Frames told and made, and steps of the simulation between them, where no network says."""

MEANING = "Mean distance to what happened; less is better."
METRICS = (
    Metric("ade", "ADE", "{:.3f}", f"{MEANING} Over all frames that follow."),
    Metric("fde", "FDE", "{:.3f}", f"{MEANING} In the last frame."),
)


def reads(path: Path) -> bool:
    """Say whether a file's name is that of trajectories, and of no other domain."""
    return path.suffix.lower() in (".npy", ".csv", ".txt", ".xyz")


def card(request: Request) -> Card:
    """Forecast simulated runs, or a file, and lay both out with the errors of plain guesses."""
    from rectiflow_trajectories import TrajectoryPipeline
    from rectiflow_trajectories.evaluation import guesses
    from rectiflow_trajectories.metrics import ade, fde
    from rectiflow_trajectories.plots import Panel, save_animation

    is_none = request.weights == "small" and not shipped_names(TrajectoryPipeline.shipped)
    pipe = None
    if not is_none:
        device = pick_device(request.device)
        pipe = TrajectoryPipeline.from_pretrained(request.weights, device=device)
    given = GIVEN if pipe is None else pipe.network.given
    frames = FRAMES if pipe is None else pipe.network.frames
    panels, rows, settings = [], [], {"seed": request.seed, "seconds": 0.0}
    for title, run in _runs(request, given + frames).items():
        told, future = run.between(0, given), run.positions[given : given + frames]
        if len(future) < frames:
            raise ValueError(
                f"{title} has {run.frames} frames; expected {given + frames}, of which the network "
                f"is told {given}."
            )
        said = guesses(told.positions, frames)
        if pipe is not None:
            said = {"forecast": _forecast(pipe, told, request, settings)} | said
        shown = "velocity" if pipe is None else "forecast"
        panels.append(Panel(title, told.positions, {"happened": future, shown: said[shown]}))
        for name, x in said.items():
            errors = {"ade": float(ade(x, future)), "fde": float(fde(x, future))}
            rows.append((f"{title}: {name}", errors))
    with tempfile.TemporaryDirectory() as folder:
        moving = save_animation(panels[:4], Path(folder) / "forecasts.gif").read_bytes()
    page = Template(asset("demo.html", HERE)).substitute(
        lead=f"{given} frames are told, and {frames} follow.",
        note=NONE if pipe is None else "",
        animation=ANIMATION,
        numbers=numbers("Trajectory", METRICS, rows),
        settings=settings_list(settings),
    )
    result: dict[str, Any] = {"settings": settings, "errors": dict(rows), "animation": ANIMATION}
    return Card("Trajectories", page, {ANIMATION: moving}, result)


def _runs(request: Request, length: int) -> dict[str, Trajectory]:
    """Return the user's trajectory, or simulated ones that no training has seen."""
    from rectiflow_trajectories import Trajectory
    from rectiflow_trajectories.io import read_trajectories
    from rectiflow_trajectories.simulators import SYSTEMS

    if request.input is not None:
        first = read_trajectories(request.input)[0]
        whole, _ = first.between(0, length).complete()
        return {request.input.stem: whole}
    found = {}
    for name in ("charged", "springs"):
        way = {"steps": (length + 1) * EVERY, "every": EVERY}
        runs = SYSTEMS[name]().simulate([request.seed], seed=10_000, **way)
        told = runs.charges[0, :, 0], runs.edges[0]
        found[name] = Trajectory(runs.loc[0, :length], *told)
    return found


def _forecast(
    pipe: TrajectoryPipeline, told: Trajectory, request: Request, settings: dict[str, Any]
) -> np.ndarray:
    """Return the mean of some samples, and keep what shaped them."""
    made = pipe(told, num=request.num, steps=request.steps, seed=request.seed)
    settings |= made.settings | {"seconds": round(settings["seconds"] + made.seconds, 2)}
    found: np.ndarray = made.forecasts[0].futures.mean(0)
    return found
