"""``rectiflow trajectories forecast``: what follows the frames of files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, positive, sampling_of, table

from rectiflow_cli.trajectories.flags import Trajectories, add_files, add_flow

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

SHOWN = 16  # rows
FORMATS = ("npz", "csv")


class Forecast(Trajectories, commands.Make):
    """Forecast what follows the last frames of trajectories, several samples of each.

    Forecasts that are there already are kept.
    """

    name, unit = "forecast", "trajectory"
    examples = (
        "walkers.csv -o futures",
        "loc_charged.npy --limit 10 --num 20 --steps 4 -o futures",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add files, and how they are forecast."""
        add = parser.group("trajectories")
        add("paths", metavar="FILE", nargs="+", help="NPY, NPZ, CSV, TXT or XYZ; see `prepare`.")
        add("--upto", type=positive, metavar="FRAME", help="Take the frames before this one only.")
        add("--limit", type=positive, help="At most so many trajectories of each file.")
        add_files(add)
        add = parser.group("sampling")
        add("--num", type=positive, default=5, help="Samples of each.")
        add_flow(parser)
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="npz", help="Of the forecasts.")

    def jobs(self, args: Any) -> list[Job]:
        """Read the files; each trajectory is a job, whose number fixes its noise."""
        from rectiflow_trajectories.io import read_trajectories

        jobs: list[Job] = []
        for path in map(Path, args.paths):
            found = read_trajectories(path, unit=args.unit, unwrap=args.unwrap)
            for i, trajectory in enumerate(found[: args.limit]):
                cut = trajectory.between(0, args.upto or trajectory.frames)
                name = f"{path.stem}_{i:04d}" if len(found) > 1 else path.stem
                told = {"input": str(path), "upto": args.upto}
                asked = (len(jobs), cut, told)
                jobs.append(Job(name, asked, (f"{name}.{args.format}",), told, source=path))
        names = [job.name for job in jobs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"two files would be forecast as {twice!r}; expected names that differ. Forecast "
                "them into folders of their own."
            )
        return jobs

    def settings(self, args: Any, pipe: TrajectoryPipeline) -> dict[str, Any]:
        """Return the options as they are resolved."""
        return pipe.described(num=args.num, **sampling_of(args))

    def make(
        self, args: Any, pipe: TrajectoryPipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Forecast one trajectory, and tell what was done to it."""
        [(number, trajectory, told)] = [job.asked for job in jobs]
        result = pipe(
            trajectory,
            num=args.num,
            indices=[number],
            names=[jobs[0].name],
            progress=progress,
            **sampling_of(args),
        )
        rows = [row | told for row in result.write(folder, f".{args.format}")]
        for row in rows:
            for note in row.get("notes", ()):
                sys.stderr.write(f"note: {told['input']}: {note}\n")
        return rows, result.seconds

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return the files as a table, with how far the samples are apart at the end."""
        rows = [
            {"file": row["files"][0], "nodes": row["nodes"], "spread": round(row["spread"], 4)}
            for row in document["samples"][:SHOWN]
        ]
        return "\n".join([super().tell(args, document), *([table(rows)] if rows else [])])


main = Forecast()
