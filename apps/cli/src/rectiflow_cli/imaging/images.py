"""What makes images of images: a job for each file, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rectiflow.commands import Job, Made, Make, Parser, Tick
from rectiflow.results import plain

from rectiflow_cli.imaging.flags import FORMATS, Imaging


class OfImages(Imaging, Make):
    """Make images of each input, named after it."""

    unit = "image"

    def add_images(self, parser: Parser) -> None:
        """Add input and output."""
        add = parser.group("input and output")
        add(
            "images",
            metavar="IMAGE",
            nargs="+",
            help="DICOM, a folder of one DICOM series, NIfTI, PNG or NPZ.",
        )
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="npz", help="Of the files.")

    def parts(self, args: Any) -> Sequence[str]:
        """Return the names of what is made of each input."""
        raise ValueError(f"{self.name} makes nothing.")

    def made(self, args: Any, pipe: Any, volume: Any) -> Any:
        """Make an input's images."""
        raise ValueError(f"{self.name} makes nothing.")

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each input."""
        stems = [Path(path).name.partition(".")[0] or "image" for path in args.images]
        for i, stem in enumerate(stems):
            if stem in stems[:i]:
                stems[i] = f"{stem}-{i}"
        return [
            Job(
                stem,
                Path(path),
                tuple(f"{stem}_{part}.{args.format}" for part in self.parts(args)),
                {"input": str(path)},
                source=Path(path),
            )
            for stem, path in zip(stems, args.images, strict=True)
        ]

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Make the images of one input: one row, with a part for each."""
        from rectiflow_imaging.io import read_volume

        [job] = jobs
        volume = read_volume(job.asked)
        result = self.made(args, pipe, volume)
        named = {f"{job.name}_{name}": v for name, v in result.volumes.items()}
        measured = {f"{job.name}_{name}": v for name, v in result.measured.items()}
        rows = replace(result, volumes=named, measured=measured).write(folder, f".{args.format}")
        files = [file for row in rows for file in row["files"]]
        parts = {row["name"].removeprefix(f"{job.name}_"): row for row in rows}
        told = {"input": str(job.asked), "read": volume.describe()}
        row = {"name": job.name, "files": files, **told, "images": parts}
        return [plain(row)], result.seconds
