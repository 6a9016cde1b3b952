"""``rectiflow shape tune``: the times of few steps, and statistics, for a checkpoint."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser

from rectiflow_cli.shape.flags import Shape


class Tune(Shape, commands.Tune):
    """Search the times of few steps for a checkpoint, and measure what DPM-Solver-v3 needs.

    Its categories take turns; times are judged by the distance to a fine solution.
    """

    examples = ("--steps 4 8 -o tuned", "--weights small --solver midpoint --steps 4 -o tuned")
    has_statistics = False

    def own_flags(self, parser: Parser) -> None:
        """Add guidance."""
        add = parser.group("flow")
        add("--guidance", type=float, help="Its weight, 1 is none; the checkpoint's own if absent.")

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Return shapes of every category."""
        from rectiflow_shape.flow import guided_field
        from rectiflow_shape.request import Asked
        from rectiflow_shape.sampling import Sampler

        sampler = Sampler(pipe, pipe.options(guidance=args.guidance, seed=args.seed))
        kinds = pipe.settings.classes or (None,)
        asked = [Asked(i, kinds[i % len(kinds)]) for i in range(args.num)]
        weight = float(sampler.options.guidance or 1)
        field = guided_field(pipe.network, sampler.condition(asked), weight)
        return Batch(field, sampler.noise(range(args.num)))


main = Tune()
