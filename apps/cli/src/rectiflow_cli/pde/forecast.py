"""``rectiflow pde forecast``: concentrations at stations, from readings and the wind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, positive
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.pde.flags import Pde


class Forecast(Pde, commands.Make):
    """Forecast concentrations at stations, from their readings and the wind.

    The folder holds ``stations.csv`` (station, latitude, longitude) and ``readings.csv`` (time,
    station, value, wind_speed, wind_direction). The wind stays as it was last.
    """

    name, unit = "forecast", "forecast"
    pipeline = "rectiflow_pde.air:AirPipeline"
    trained_by = "train experiment=small_air"
    examples = (
        "FOLDER --weights runs/air -o ahead",
        "FOLDER --weights runs/air --horizon 24 -o ahead",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the tables, and how far ahead."""
        add = parser.group("input and output")
        add("folder", metavar="FOLDER", help="With stations.csv and readings.csv.")
        add("--horizon", type=positive, metavar="N", help="Times; the checkpoint's own if absent.")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")

    def jobs(self, args: Any) -> list[Job]:
        """Lay out the one forecast."""
        from rectiflow_pde.io.stations import READINGS, STATIONS

        paths = [Path(args.folder) / name for name in (STATIONS, READINGS)]
        digests = [digest_of_file(path) for path in paths]
        expected = {"asked": {"tables_sha256": digests, "horizon": args.horizon}}
        return [Job("forecast", expected=expected, source=paths[1])]

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the forecast."""
        return {"horizon": args.horizon or pipe.settings.horizon}

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Read, forecast, tell what was odd, and write."""
        from rectiflow_pde.data.air import read_folder

        made = pipe(read_folder(args.folder), horizon=args.horizon)
        for line in made.warnings:
            sys.stderr.write(f"note: {line}\n")
        return [row | jobs[0].expected for row in made.write(folder)], made.seconds


main = Forecast()
