"""``tune``: search the times of few steps for a checkpoint, and measure its statistics."""

from __future__ import annotations

from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rectiflow.commands.answers import answer, table
from rectiflow.commands.methods import solver_of
from rectiflow.commands.parser import Parser, positive
from rectiflow.commands.progress import counter
from rectiflow.commands.verb import PipelineVerb
from rectiflow.grids import uniform
from rectiflow.search import GRIDS_FILE, Evolution, SearchedGrids, distance_to_fine, search_grid
from rectiflow.solvers import RK4, Solver, estimate_statistics
from rectiflow.solvers.empirical import STATISTICS_FILE
from rectiflow.storage.folders import claim


class Batch(NamedTuple):
    """A fixed batch that a checkpoint is tuned on.

    Attributes
    ----------
    field : VelocityField
        As it will be sampled, guidance included.
    x0 : Tensor
        Noise.
    """

    field: Any
    x0: Any


class Tune(PipelineVerb):
    """Search the times of few steps for a checkpoint, and measure what DPM-Solver-v3 needs.

    Nothing is trained. A copy of the checkpoint is written, beside which lie the times that
    ``--grid searched`` takes and the statistics of ``--solver dpm-v3``. Started again, a search
    goes on where it was stopped.
    """

    name = "tune"
    has_statistics = True
    diagnosed_by: Solver = RK4()

    def flags(self, parser: Parser) -> None:
        """Add the domain's flags, and what is searched."""
        self.own_flags(parser)
        add = parser.group("search")
        add("-o", "--out", required=True, metavar="WEIGHTS", help="The folder of the copy.")
        add("--num", type=positive, default=8, help="Samples of the fixed batch.")
        add("--steps", type=positive, nargs="+", default=[2, 4, 8], help="Numbers of steps.")
        add("--solver", type=solver_of, default="euler", metavar="NAME[:X]", help="The integrator.")
        add("--pool", type=positive, default=32, help="Equal steps that times are chosen from.")
        add("--epochs", type=positive, default=20, help="Of the evolution.")
        add("--population", type=positive, default=50, help="Candidates of an epoch.")
        if self.has_statistics:
            add("--statistics", action="store_true", help="Measure those of DPM-Solver-v3 too.")
            add("--points", type=positive, default=60, help="Of their table.")
        parser.add_network()
        parser.add_overwrite()
        parser.add_json()

    @abstractmethod
    def own_flags(self, parser: Parser) -> None:
        """Add what the batch is made of."""

    @abstractmethod
    def batch(self, args: Namespace, pipe: Any) -> Batch:
        """Return the batch that the flags describe."""

    def diagnosis(self, args: Namespace, pipe: Any) -> Batch:
        """Return a field of one tensor for ``rectiflow diagnose``, and its unit noise."""
        return self.batch(args, pipe)

    def objective(self, args: Namespace, pipe: Any) -> Callable[[tuple[float, ...]], float]:
        """Return what a grid is judged by: its distance to a fine solution of the batch."""
        field, x0 = args.batch
        return distance_to_fine(field, x0, args.solver, steps=2 * args.pool)

    def run(self, args: Namespace) -> int:
        """Search each number of steps, and write the copy."""
        pipe = self.load(args)
        out = Path(args.out)
        names = [GRIDS_FILE, STATISTICS_FILE, *map(_store, args.steps)]
        with claim(out, "tuned weights", names, overwrite=args.overwrite):
            pipe.save_pretrained(out, overwrite=args.overwrite, tuned_from=str(args.weights))
            args.batch = self.batch(args, pipe)
            objective = self.objective(args, pipe)
            rows, grids = self._searched(args, objective, out)
            SearchedGrids(
                {row["steps"]: grids[row["steps"]] for row in rows},
                {row["steps"]: {k: v for k, v in row.items() if k != "steps"} for row in rows},
            ).save(out)
            files = [out / GRIDS_FILE]
            if self.has_statistics and args.statistics:
                field, x0 = args.batch
                generator = torch.Generator().manual_seed(args.seed)
                statistics = estimate_statistics(
                    field, x0, points=args.points, pooled=True, generator=generator
                )
                files.append(statistics.save(out, seed=str(args.seed), samples=str(len(x0))))
        told = ", ".join(str(file) for file in files)
        text = f"{table(rows)}\nwrote {told}; use it with --weights {out} --grid searched"
        answer({"grids": rows, "files": files}, text, as_json=args.json)
        return 0

    def _searched(
        self, args: Namespace, objective: Callable[[tuple[float, ...]], float], out: Path
    ) -> tuple[list[dict[str, Any]], dict[int, tuple[float, ...]]]:
        pool = uniform(args.pool)
        share = args.population // 2, args.population // 4
        how = Evolution(args.population, max(2, args.population // 5), args.epochs, *share)
        rows, grids = [], {}
        with counter("searching", unit="grid", quiet=args.json) as show:
            total = len(args.steps) * how.epochs * how.population
            for place, steps in enumerate(args.steps):
                if not 2 <= steps <= args.pool:
                    raise ValueError(
                        f"--steps has times to search from 2 to --pool {args.pool}, got {steps}."
                    )
                tried = 0

                def judged(times: tuple[float, ...], place: int = place) -> float:
                    nonlocal tried
                    tried += 1
                    show(place * total / len(args.steps) + tried, total)
                    return objective(times)

                found = search_grid(
                    judged,
                    pool[1:-1],
                    steps - 1,
                    evolution=how,
                    seed=args.seed,
                    store=out / _store(steps),
                )
                spread = tuple(uniform(steps))  # which the pool may lack
                equal = objective(spread)
                grids[steps] = found.times if found.score < equal else spread
                row = {"steps": steps, "solver": repr(args.solver)}
                row |= {"distance": min(found.score, equal), "equal_steps": equal}
                rows.append(row | {"tried": found.tried})
        return rows, grids


def _store(steps: int) -> str:
    """Return the file of a search that may be gone on with."""
    return f"search_{steps}.json"
