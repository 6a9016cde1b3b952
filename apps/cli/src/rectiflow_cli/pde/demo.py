"""The physics card: a flow simulated from its first frame, beside the solved one."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from rectiflow.commands import pick_device

from rectiflow_cli.demo.card import Card, Metric, Request, numbers, settings_list
from rectiflow_cli.demo.page import asset, picture

HERE = Path(__file__).parent
SHIPPED = "small_march"
ANIMATION = "flows/side_by_side.gif"
METRICS = (
    Metric(
        "relative_l2",
        "Relative L2",
        "{:.3f}",
        "Norm of the error over that of the solved flow: all nodes, fields, and frames but the "
        "given one. Less is better.",
    ),
    Metric(
        "divergence",
        "Divergence",
        "{:.3f}",
        "Of the last velocity, over its gradient; the solved flow's own is the least to expect.",
    ),
)


def reads(path: Path) -> bool:
    """Say whether a file's name is that of a flow which `rectiflow pde` wrote."""
    return path.suffix.lower() == ".npz"


def card(request: Request) -> Card:
    """Simulate a solved flow from its first frame, and lay both out with the error over time."""
    from rectiflow_pde.evaluation import Guess, cut, evaluate, persistence, time_mean
    from rectiflow_pde.examples import SHEDDING
    from rectiflow_pde.pipeline import SimulationPipeline
    from rectiflow_pde.result import read_npz

    device = pick_device(request.device)
    pipe = SimulationPipeline.from_pretrained(request.weights, device=device)
    frames, step = pipe.length, pipe.settings.frame_step
    true = cut(read_npz(request.input or SHEDDING), frames, step)
    made = pipe(
        mesh=true.mesh,
        first_frame=true.stacked[0],
        viscosity=true.parameters.get("viscosity"),
        frames=len(true.times),
        steps=request.steps,
        seed=request.seed,
        start=float(true.times[0]),
    )
    guesses = [
        Guess("simulated", lambda flow: made.flows[0].stacked),
        Guess("first frame repeated", persistence),
        Guess("mean of the true frames", time_mean),
        Guess("solved", lambda flow: flow.stacked),
    ]
    found = evaluate({"flow": true}, guesses, frames=frames)
    rows = {row["method"]: row for row in found.rows}
    curve, files = picture(
        "error",
        lambda: _curves(true, guesses[:3]),
        alt="Relative error of each frame: simulated, first frame repeated, mean of true frames",
        caption="Relative L2 error of each frame. The first one is given.",
    )
    files[ANIMATION] = _animation([("simulated", made.flows[0]), ("solved", true)])
    settings = {**made.settings, "seconds": round(made.seconds, 2)}
    page = Template(asset("demo.html", HERE)).substitute(
        caption=html.escape(true.caption),
        steps=made.settings["steps"],
        frames=len(true.times),
        stretch=pipe.settings.frames,
        animation=ANIMATION,
        curve=curve,
        notes="".join(f"<li>{html.escape(line)}</li>" for line in made.warnings),
        numbers=numbers("Flow", METRICS, ((name, _plain(row)) for name, row in rows.items())),
        settings=settings_list(settings),
    )
    told = {"settings": settings, "flows": found.rows, "animation": ANIMATION}
    return Card("Simulated flow", page, files, told)


def _plain(row: dict[str, Any]) -> dict[str, float]:
    kept = {metric.key: row[metric.key] for metric in METRICS}
    return {key: np.nan if value is None else value for key, value in kept.items()}


def _curves(true: Any, guesses: Any) -> Any:
    from rectiflow_pde.metrics.errors import relative_l2
    from rectiflow_pde.plots import error_figure

    errors = {
        guess.name: np.array(
            [np.nan if e is None else e
             for e in relative_l2(guess.simulate(true), true.stacked).per_frame]
        )
        for guess in guesses
    }  # fmt: skip
    return error_figure(true.times, errors)


def _animation(flows: Any) -> bytes:
    from rectiflow_pde.plots import save_animation

    with tempfile.TemporaryDirectory() as folder:
        return save_animation(flows, Path(folder) / "flow.gif").read_bytes()
