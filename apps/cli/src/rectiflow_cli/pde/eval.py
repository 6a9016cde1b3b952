"""``rectiflow pde eval``: simulations from true first frames, against the truth."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, add_sampler, positive, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde.flags import Pde
from rectiflow_cli.pde.rollout import is_of_waves, measure_rollouts

if TYPE_CHECKING:
    from rectiflow.evaluation import Evaluation


class Eval(Pde, commands.Evaluate):
    """Measure simulations from the first frames of solved flows, beside guesses without physics.

    The frame that is given does not count. Flows of ``solve ks`` are rolled out, and their
    correlation times told.
    """

    examples = (
        "SHARDS --weights small --steps 1 5 25 -o measured",
        "SHARDS --weights small --ensemble 8 --beside runs/rectified runs/surrogate -o measured",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the flows, and what is compared."""
        add = parser.group("flows")
        add("shards", metavar="SHARDS", help="Prepared flows.")
        add("--split", default="test", help="Which of them.")
        add("--num", type=positive, help="At most so many of them.")
        add("--frames", type=positive, default=24, help="Of each, the given first one included.")
        add = parser.group("sampling")
        add("--steps", type=positive, nargs="+", help="Of the solver; several are compared.")
        add(
            "--ensemble",
            type=positive,
            default=1,
            metavar="N",
            help="Samples of each flow, whose spread is held against their error.",
        )
        add("--beside", nargs="+", default=(), metavar="WEIGHTS", help="Further checkpoints.")
        add_sampler(add, "euler")

    def measure(self, args: Any, progress: Callable[[float, float], None]) -> Measured:
        """Simulate, measure, and draw the errors over time."""
        from rectiflow.evaluation import Evaluation
        from rectiflow_pde.data.datamodule import flows_of
        from rectiflow_pde.evaluation import summarise

        if is_of_waves(args.shards):
            return measure_rollouts(self, args, progress)

        flows = flows_of(args.shards, args.split)[: args.num]
        if not flows:
            raise UsageError(f"{args.shards} has no flow in its {args.split} split.")
        named = {f"{args.split}_{i:04d}": flow for i, flow in enumerate(flows)}
        found, failures = self.each(args, partial(self._measuring, args), named, progress)
        rows = [row | {"name": name} for name, (own, _) in found.items() for row in own]
        [frames] = {frames for _, frames in found.values()}
        told = {"frames": frames, "split": args.split}
        return Measured(Evaluation(rows, summarise(rows), failures), told)

    def _measuring(self, args: Any) -> Callable[[Any], tuple[list[Any], int]]:
        """Load what simulates, and return what measures a flow: rows, and of how many frames."""
        from rectiflow_pde.evaluation import Guess, by_pipeline, evaluate, persistence, time_mean

        guesses = [Guess("persistence", persistence), Guess("time mean", time_mean)]
        if args.weights is None and args.beside:
            raise UsageError("--beside needs --weights: beside what?")
        frames, step = args.frames, None
        for weights in [args.weights, *args.beside] if args.weights else []:
            own = Namespace(**{**vars(args), "weights": weights})
            pipe = self.load(own)
            if pipe.reads_words:  # which cannot go on from a frame
                frames = min(frames, pipe.settings.frames)
            if step not in (None, pipe.settings.frame_step):
                raise UsageError(
                    f"{weights} makes frames {pipe.settings.frame_step:g} s apart, those before it "
                    f"{step:g} s; expected one step. Measure them apart."
                )
            step = pipe.settings.frame_step
            told = {"seed": args.seed, "members": args.ensemble}
            told |= {"solver": own.solver, "grid": own.grid}
            told["name"] = weights if args.beside else ""
            for steps in [1] if pipe.settings.guesses else args.steps or [pipe.settings.steps]:
                guesses.append(by_pipeline(pipe, steps=steps, **told))

        def measure(flow: Any) -> tuple[list[Any], int]:
            return evaluate({"": flow}, guesses, frames=frames, step=step).rows, frames

        return measure

    def tell(self, found: Evaluation) -> str:
        """Return the means by method, and by kind of flow where there are kinds."""
        if not any("all" in groups for groups in found.summary.values()):
            return table([{"method": k, **values} for k, values in found.summary.items()])
        rows = [
            {"method": method, "flows": kind, **values}
            for method, groups in found.summary.items()
            for kind, values in groups.items()
        ]
        columns: dict[str, Any] = {name: None for row in rows for name in row}
        return table([columns | row for row in rows])


main = Eval()
