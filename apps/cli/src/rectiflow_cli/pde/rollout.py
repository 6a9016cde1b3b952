"""``rectiflow pde rollout``: a state on a circle, stepped on; and its evaluation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Measured, Parser, Tick, positive
from rectiflow.commands.parser import pick_device
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde.flags import Pde, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Rollout(Pde, commands.Make):
    """Roll a Kuramoto-Sivashinsky state out by a trained network, step by step.

    With PDE-Refiner's network each step is refined under ever less noise. Samples differ by that
    noise, and how long they agree tells how long they can be trusted.
    """

    name, unit = "rollout", "rollout"
    pipeline = "rectiflow_pde.rollout:RolloutPipeline"
    trained_by = "train experiment=small_refiner"
    examples = (
        "state.npz --weights runs/refiner --steps 100 --draw -o rolled",
        "state.npy --length 64 --num 8 --flow --weights runs/refiner -o rolled",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the state, and how it is stepped."""
        add = parser.group("state")
        add("state", metavar="FILE", help="A .npy (n,) or (frames, n), or .npz with u and length.")
        add("--length", type=number, metavar="L", help="Of the circle, if the file does not say.")
        add("--frame-step", type=number, default=0.2, help="Of the data; a step takes several.")
        add = parser.group("sampling")
        add("--steps", type=positive, default=100, help="How many to make.")
        add("--num", type=positive, default=1, help="Samples, which differ by their noise.")
        add("--flow", action="store_true", help="Step as a flow: noise at the start of each alone.")
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--draw", action="store_true", help="Draw each over space and time as well.")

    def jobs(self, args: Any) -> list[Job]:
        """Lay out the samples by number."""
        path = Path(args.state)
        asked = {
            "state_sha256": digest_of_file(path) if path.is_file() else "",
            **{name: getattr(args, name) for name in ("length", "frame_step", "draw")},
        }
        names = [f"rollout_{i:04d}" for i in range(args.num)]
        return [
            Job(name, i, expected={"asked": asked}, source=path) for i, name in enumerate(names)
        ]

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the rollouts."""
        way = pipe.settings.flow if args.flow else pipe.settings.way
        return {"steps": args.steps, "way": repr(way), "seed": args.seed}

    def chunks(self, args: Any, pipe: Any, jobs: list[Job]) -> Any:
        """Take eight samples at a time."""
        return (jobs[i : i + 8] for i in range(0, len(jobs), 8))

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Read the state, step it, and write."""
        from rectiflow_pde.rollout import read_state

        state, length, notes = read_state(args.state)
        length = args.length if args.length is not None else length
        if length is None:
            raise UsageError(f"{args.state} does not say how long its circle is; add --length L.")
        made = pipe(
            state,
            length=length,
            steps=args.steps,
            frame_step=args.frame_step,
            indices=[job.asked for job in jobs],
            way=pipe.settings.flow if args.flow else None,
            seed=args.seed,
            progress=progress,
        )
        for line in (*notes, *made.warnings):
            sys.stderr.write(f"note: {line}\n")
        rows = made.write(folder, draw=args.draw)
        return [row | jobs[0].expected for row in rows], made.seconds


def is_of_waves(shards: str) -> bool:
    """Tell whether a folder holds flows of ``solve ks``."""
    from rectiflow.storage.reading import read_json

    manifest = Path(shards) / "manifest.json"
    return manifest.is_file() and read_json(manifest)["metadata"].get("kind") == "ks flows"


def measure_rollouts(
    verb: commands.Evaluate, args: Any, progress: Callable[[float, float], None]
) -> Measured:
    """Roll the first states of solved flows out by each checkpoint, and measure."""
    from rectiflow_pde.rollout_evaluation import figures, summarise

    if args.weights is None:
        raise UsageError("flows of ks are measured with --weights; expected a checkpoint.")
    if args.steps is not None:
        raise UsageError("the checkpoint says the steps of a rollout; leave --steps out.")
    names = {weights: weights for weights in (args.weights, *args.beside)}
    found, failures = verb.each(args, partial(_measuring, args), names, progress)
    every = {name: each for own in found.values() for name, each in own.items()}
    from rectiflow.evaluation import Evaluation

    rows = [row | {"method": name} for name, each in every.items() for row in each.rows]
    told = {"split": args.split, "frames": args.frames}
    draw: Callable[[], Mapping[str, Figure]] = partial(figures, every)
    return Measured(Evaluation(rows, summarise(every), failures), told, draw)


def _measuring(args: Any) -> Callable[[str], dict[str, Any]]:
    """Open the flows, and return what measures a checkpoint by each way that it knows."""
    from rectiflow_pde.data.grids import PreparedGrids
    from rectiflow_pde.data.states import Waves
    from rectiflow_pde.rollout import RolloutPipeline
    from rectiflow_pde.rollout_evaluation import evaluate

    flows = PreparedGrids(args.shards)
    rows = flows.some_rows(args.split).tolist()[: args.num]

    def measure(weights: str) -> dict[str, Any]:
        pipe = RolloutPipeline.from_pretrained(weights, device=pick_device(args.device))
        waves = Waves(flows, rows, pipe.settings.stride)
        ways = {"": pipe.settings.way}
        if pipe.settings.refinements:
            ways[" as a flow"] = pipe.settings.flow
        told = {"frames": args.frames, "members": args.ensemble, "seed": args.seed}
        return {f"{weights}{more}": evaluate(pipe, waves, way, **told)
                for more, way in ways.items()}  # fmt: skip

    return measure


main = Rollout()
