"""``rectiflow imaging sample``: slices drawn from a prior."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rectiflow.commands import Job, Made, Make, Parser, Tick, add_sampler, positive, sampling_of

from rectiflow_cli.imaging.flags import FORMATS, Imaging


class Sample(Imaging, Make):
    """Draw slices of bodies from a trained prior, in [0, 1]."""

    name, unit = "sample", "image"
    examples = ("--num 16 -o drawn", "--num 16 --steps 50 --format png -o drawn")

    def own_flags(self, parser: Parser) -> None:
        """Add how many, and how."""
        add = parser.group("images")
        add("--num", type=positive, default=4, help="How many.")
        add("--steps", type=positive, default=20, help="Of the solver.")
        add_sampler(add, "euler")
        add("--batch", type=positive, default=16, help="Images that one call draws.")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="npz", help="Of the files.")

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each image."""
        names = [f"image_{i:04d}" for i in range(args.num)]
        return [Job(name, i, (f"{name}.{args.format}",)) for i, name in enumerate(names)]

    def chunks(self, args: Any, pipe: Any, jobs: list[Job]) -> Iterator[list[Job]]:
        """Draw some at a time."""
        return (jobs[i : i + args.batch] for i in range(0, len(jobs), args.batch))

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the images."""
        told = {"steps": args.steps, "solver": repr(args.solver), "seed": args.seed}
        return told | {"grid": args.grid and repr(args.grid)}

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Draw and write."""
        made = pipe([job.asked for job in jobs], **sampling_of(args))
        return made.write(folder, f".{args.format}"), made.seconds


main = Sample()
