"""``rectiflow pde tune``: the times of few steps, and statistics, for a checkpoint."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde.flags import Pde


class Tune(Pde, commands.Tune):
    """Search the times of few steps for a checkpoint, and measure what DPM-Solver-v3 needs.

    Times are judged on prepared flows, by the distance to a fine solution.
    """

    examples = (
        "SHARDS --steps 2 4 -o tuned",
        "SHARDS --weights small --statistics --num 16 -o tuned",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the flows."""
        add = parser.group("flows")
        add("shards", metavar="SHARDS", help="Prepared flows, whose first frames are given.")
        add("--split", default="train", help="Which of them.")
        add("--guidance", type=float, help="By the prompt, 1 is none; the checkpoint's if absent.")

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Return flows of the split."""
        from rectiflow_pde.data.datamodule import flows_of, require
        from rectiflow_pde.data.rasters import RasteredFlows
        from rectiflow_pde.reflow import started

        settings = pipe.settings
        if settings.raster is None:
            raise UsageError(
                "these weights are the authors' diffusion; expected a rectified flow of ours."
            )
        flows = flows_of(args.shards, args.split)
        require(flows, args.shards)
        told = settings.raster, settings.scaling, settings.frames
        examples = RasteredFlows(flows, *told, step=settings.frame_step, seed=args.seed)
        guidance = settings.guidance if args.guidance is None else args.guidance
        rows = range(args.num)
        return Batch(*started(pipe, examples, rows, seed=args.seed, guidance=guidance))


main = Tune()
