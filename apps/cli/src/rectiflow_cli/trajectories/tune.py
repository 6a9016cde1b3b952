"""``rectiflow trajectories tune``: the times of few steps for a checkpoint."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser

from rectiflow_cli.trajectories.flags import Trajectories, add_shards


class Tune(Trajectories, commands.Tune):
    """Search the times of few steps for a checkpoint.

    Times are judged on prepared windows, by the distance to a fine solution. Windows take turns of
    those with as many nodes as the first.
    """

    examples = ("shards --steps 2 4 -o tuned", "shards --weights runs/charged --num 32 -o tuned")
    has_statistics = False

    def own_flags(self, parser: Parser) -> None:
        """Add the windows."""
        add = parser.group("windows")
        add_shards(add, "train")

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Return windows of the split."""
        from rectiflow_trajectories.data import PreparedTrajectories
        from rectiflow_trajectories.sampling import diagnosed_batch

        prepared = PreparedTrajectories(args.shards)
        rows = prepared.some_rows(args.split).tolist()
        records = [prepared.records[row] for row in rows[: args.num]]
        return Batch(*diagnosed_batch(pipe, records, args.num, args.seed))


main = Tune()
