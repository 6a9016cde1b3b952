"""``rectiflow trajectories pairs``: what reflow trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser, sampling_of

from rectiflow_cli.errors import UsageError
from rectiflow_cli.trajectories.flags import Trajectories, add_flow

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline


class Pairs(Trajectories, commands.Pairs):
    """Make pairs of noise and trajectory with a trained network, told windows of a data set."""

    examples = ("shards --num 2000 -o pairs", "shards --weights runs/charged --steps 50 -o pairs")
    takes = "Prepared windows, whose given frames and features the network is told."

    def own_flags(self, parser: Parser) -> None:
        """Add the solver."""
        add_flow(parser)

    def candidates(self, args: Any, pipe: TrajectoryPipeline) -> Candidates:
        """Return the sampler."""
        from rectiflow_trajectories.data import PreparedTrajectories
        from rectiflow_trajectories.reflow import pair_sampler

        if args.real:
            raise UsageError("--real is not offered for trajectories; leave it out.")
        prepared = PreparedTrajectories(args.shards)
        records = [prepared.records[row] for row in prepared.some_rows("train").tolist()]
        told = pipe.described(num=1, **sampling_of(args))
        way = sampling_of(args) | {"steps": told["steps"]}
        kept = {name: told[name] for name in ("steps", "solver", "grid")}
        return Candidates(pair_sampler(pipe, records, **way), args.num, told=kept)


main = Pairs()
