"""``rectiflow imaging tune``: the times of few steps for a prior of slices."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser

from rectiflow_cli.imaging.flags import Imaging


class Tune(Imaging, commands.Tune):
    """Search the times of few steps for a prior of slices.

    Times are judged on slices from noise, by the distance to a fine solution.
    """

    examples = ("--steps 4 8 -o tuned", "--weights runs/prior --solver midpoint -o tuned")
    has_statistics = False

    def own_flags(self, parser: Parser) -> None:
        """Add nothing: a prior has no conditions."""

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Return slices."""
        return Batch(pipe.field, pipe.noise(range(args.num), args.seed))


main = Tune()
