"""``rectiflow trajectories sample``: trajectories for prepared graphs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, positive, sampling_of

from rectiflow_cli.trajectories.flags import Trajectories, add_flow, add_shards

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

TOGETHER = 16


class Sample(Trajectories, commands.Make):
    """Make trajectories for prepared graphs: futures of their given frames, or whole ones.

    Samples that are there already are kept.
    """

    name, unit = "sample", "trajectory"
    examples = ("shards --num 100 -o made", "shards --weights geotdm --ancestral -o made")

    def own_flags(self, parser: Parser) -> None:
        """Add the graphs, and how many samples are made."""
        add = parser.group("trajectories")
        add_shards(add)
        add("--num", type=positive, default=16, help="Trajectories; windows take turns.")
        add_flow(parser)
        add = parser.group("diffusion")
        add(
            "--ancestral",
            action="store_true",
            help="Take the random steps of the authors' diffusion, with weights of one.",
        )
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each trajectory; a window and a number fix its noise."""
        from rectiflow_trajectories.data import PreparedTrajectories

        prepared = PreparedTrajectories(args.shards)
        rows = prepared.some_rows(args.split).tolist()
        return [
            Job(
                f"trajectory_{i:04d}",
                (rows[i % len(rows)], i),
                expected={"window": str(prepared.table["name"][rows[i % len(rows)]])},
            )
            for i in range(args.num)
        ]

    def settings(self, args: Any, pipe: TrajectoryPipeline) -> dict[str, Any]:
        """Return the options as they are resolved."""
        return pipe.described(num=1, ancestral=args.ancestral, **sampling_of(args))

    def chunks(self, args: Any, pipe: TrajectoryPipeline, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the trajectories into calls."""
        return (jobs[i : i + TOGETHER] for i in range(0, len(jobs), TOGETHER))

    def make(
        self, args: Any, pipe: TrajectoryPipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Sample some trajectories in one call."""
        import time

        from rectiflow_trajectories import Forecast, ForecastResult
        from rectiflow_trajectories.data import PreparedTrajectories

        started, prepared = time.perf_counter(), PreparedTrajectories(args.shards)
        records = [prepared.records[job.asked[0]] for job in jobs]
        numbers = [job.asked[1] for job in jobs]
        made = pipe.samples(
            records, numbers, ancestral=args.ancestral, progress=progress, **sampling_of(args)
        )
        given = pipe.network.given
        forecasts = []
        for job, record, futures in zip(jobs, records, made, strict=True):
            shown = record["positions"][:, :given].movedim(0, 1).double().numpy()
            names = tuple(map(str, range(shown.shape[1])))
            told = (names, pipe.settings.unit, job.expected)
            forecasts.append(Forecast(job.name, shown, futures, *told))
        rows = ForecastResult(forecasts).write(folder)
        return rows, time.perf_counter() - started


main = Sample()
