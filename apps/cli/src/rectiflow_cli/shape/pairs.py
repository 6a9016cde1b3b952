"""``rectiflow shape pairs``: what reflow trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_flow, made_by

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline


class Pairs(Shape, commands.Pairs):
    """Make pairs of noise and shape with a trained network; its categories take turns."""

    examples = ("--weights small --num 2000 -o pairs", "--weights small --steps 50 -o pairs")
    takes = "Not used: shapes need no data to be sampled."
    needs_data = False

    def own_flags(self, parser: Parser) -> None:
        """Add the solver."""
        add_flow(parser)

    def candidates(self, args: Any, pipe: ShapePipeline) -> Candidates:
        """Return the sampler."""
        from rectiflow_shape.reflow import pair_sampler
        from rectiflow_shape.request import Asked

        if args.real:
            raise UsageError("--real is not offered for shapes; leave it out.")
        options = pipe.options(**made_by(args))
        asked = [Asked(category=name) for name in pipe.settings.classes] or [Asked()]
        return Candidates(pair_sampler(pipe, asked, options), args.num, told=options.described())


main = Pairs()
