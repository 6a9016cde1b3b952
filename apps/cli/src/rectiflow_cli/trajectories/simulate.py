"""``rectiflow trajectories simulate``: runs of the N-body benchmark."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser, Verb, answer, positive
from rectiflow.storage.folders import claim

from rectiflow_cli.errors import UsageError
from rectiflow_cli.trajectories.flags import Trajectories

if TYPE_CHECKING:
    from rectiflow_trajectories.simulators import Runs

SYSTEMS = ("charged", "springs", "gravity")
TOGETHER = 250
"""Runs that one task integrates at once."""


class Simulate(Trajectories, Verb):
    """Simulate charged particles, springs or gravity as the N-body benchmark has them.

    Writes the authors' arrays: loc and vel (runs, frames, nodes, 3), charges and edges. A run
    depends on the seed and its number alone.
    """

    name = "simulate"
    examples = ("charged --num 200 -o runs/charged", "springs --num 100 --nodes 8 -o runs/springs")

    def flags(self, parser: Parser) -> None:
        """Add the system, its size, and where it goes."""
        add = parser.group("runs")
        add("system", choices=SYSTEMS, help="The law of forces.")
        add("--num", type=positive, default=100, help="Runs.")
        add("--nodes", type=positive, help="Of each; 5, or 10 under gravity, if absent.")
        add("--steps", type=positive, default=5000, help="Of 0.001 each.")
        add("--every", type=positive, default=100, help="Steps from one frame to the next.")
        add("--seed", type=int, default=0, help="Of how the runs start.")
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        parser.add_executor()
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Namespace) -> int:
        """Simulate, and write whole files."""
        import numpy as np
        from rectiflow_trajectories.io import write_runs
        from rectiflow_trajectories.simulators import Runs

        if args.steps <= args.every:
            raise UsageError(
                f"runs of {args.steps} steps have no frame at every {args.every}th; expected more "
                "--steps, or a smaller --every."
            )
        tasks = [
            range(start, min(start + TOGETHER, args.num)) for start in range(0, args.num, TOGETHER)
        ]
        simulating = _Simulating(args.system, args.nodes, args.seed, args.steps, args.every)
        parts: list[Any] = [each.get() for each in args.executor.map(simulating, tasks)]
        fields = ("loc", "vel", "charges", "edges")
        runs = Runs(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
        out = Path(args.out)
        names = [f"{name}_{args.system}.npy" for name in fields]
        with claim(out, f"{args.system} runs", names, overwrite=args.overwrite):
            written = write_runs(out, args.system, runs)
        count, frames, nodes, _ = runs.loc.shape
        document = {"folder": out, "files": written, "runs": count, "frames": frames}
        text = f"{count} runs of {frames} frames and {nodes} nodes written to {out}"
        answer(document | {"nodes": nodes}, text, as_json=args.json)
        return 0


class _Simulating:
    """What workers do: simulate the runs of some numbers."""

    def __init__(self, system: str, nodes: int | None, seed: int, steps: int, every: int) -> None:
        self.system, self.nodes = system, nodes
        self.told = {"seed": seed, "steps": steps, "every": every}

    def __call__(self) -> Any:
        return self._simulate

    def _simulate(self, indices: range) -> Runs:
        from rectiflow_trajectories.simulators import SYSTEMS

        kind: Any = SYSTEMS[self.system]
        system = kind() if self.nodes is None else kind(self.nodes)
        found: Runs = system.simulate(indices, **self.told)
        return found


main = Simulate()
