"""``rectiflow trajectories eval``: errors of forecasts, beside the plainest guesses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, add_sampler, positive, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.trajectories.flags import Trajectories, add_shards

if TYPE_CHECKING:
    from rectiflow.evaluation import Evaluation


class Evaluate(Trajectories, commands.Evaluate):
    """Measure forecasts of prepared windows against what happened.

    Without --weights the guesses alone are measured: the last frame, and constant velocity. Of
    weights that make whole trajectories the marginal score is told.
    """

    examples = ("shards", "shards --weights small --steps 1 4 8 50 -o measured")

    def own_flags(self, parser: Parser) -> None:
        """Add the windows, and how they are forecast."""
        add = parser.group("windows")
        add_shards(add)
        add("--limit", type=positive, help="At most so many windows, evenly spaced.")
        add = parser.group("sampling")
        add("--num", type=positive, default=5, help="Samples of each.")
        add("--clusters", type=positive, help="Take least errors over so many of them, spread out.")
        add("--steps", type=positive, nargs="+", default=(), help="Of the solver, one row each.")
        add_sampler(add, "euler")
        add(
            "--bound",
            action="store_true",
            help="Tell the likelihood bound of a diffusion, in nats.",
        )

    def measure(self, args: Any, progress: Any) -> Measured:
        """Measure as the flags ask."""
        from rectiflow_trajectories.data import PreparedTrajectories
        from rectiflow_trajectories.evaluation import TOGETHER, summed_up

        if args.bound and args.weights is None:
            raise UsageError(
                "--bound is that of weights; expected --weights, those of a diffusion."
            )
        if (args.clusters or 0) > args.num:
            raise UsageError(f"--clusters must be at most --num {args.num}, got {args.clusters}.")
        prepared = PreparedTrajectories(args.shards)
        rows = prepared.some_rows(args.split).tolist()
        count = min(args.limit or len(rows), len(rows))
        rows = [rows[i * len(rows) // count] for i in range(count)]
        groups = {
            f"windows {i} to {i + TOGETHER - 1}": rows[i : i + TOGETHER]
            for i in range(0, count, TOGETHER)
        }
        found, failures = self.each(args, partial(self._measuring, args), groups, progress)
        return Measured(summed_up([row for group in found.values() for row in group], failures))

    def _measuring(self, args: Any) -> Callable[[list[int]], list[dict[str, Any]]]:
        """Load, and return what measures some windows."""
        from rectiflow_trajectories.data import PreparedTrajectories
        from rectiflow_trajectories.evaluation import measure_windows

        pipe = None if args.weights is None else self.load(args)
        told = {"solver": args.solver, "grid": args.grid, "seed": args.seed} if pipe else {}
        told |= {"bound": args.bound, "clusters": args.clusters}
        prepared = PreparedTrajectories(args.shards)
        return lambda rows: measure_windows(
            pipe, prepared, rows, num=args.num, steps=args.steps, **told
        )

    def tell(self, found: Evaluation) -> str:
        """Return the means as a table."""
        rows = [
            {"measure": name, "mean": f"{value:.5g}" if isinstance(value, float) else value}
            for name, value in found.summary.items()
        ]
        return table(rows)


main = Evaluate()
