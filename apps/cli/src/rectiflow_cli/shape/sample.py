"""``rectiflow shape sample``: meshes from a category, words or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, positive, table, words
from rectiflow.costs import Load

from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import (
    FORMATS,
    add_flow,
    add_surface,
    loads_of,
    made_by,
    surface_by,
)

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline

TOGETHER = 16
"""Samples that go through the network, and are lost if the command is killed, together."""


class Sample(Shape, commands.Make):
    """Generate closed meshes."""

    name, unit = "sample", "shape"
    examples = (
        "--category seat --num 4 -o shapes",
        '--prompt "a low-poly tree: pine" --faces 2000 -o shapes',
    )

    def own_flags(self, parser: Parser) -> None:
        """Add what is asked for, and where it goes."""
        add = parser.group("shapes")
        add(
            "--category",
            action="append",
            dest="categories",
            help="A class that the weights know; may be repeated. Any if absent.",
        )
        add("--prompt", type=words, metavar="WORDS", help="What to make, in words.")
        add("--num", type=positive, default=1, help="How many of each category.")
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="glb", help="Of the meshes.")
        add_surface(parser)
        add_flow(parser)

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each shape; its number fixes the noise."""
        from rectiflow_shape.request import Asked
        from rectiflow_shape.result import sample_name

        kinds = [c for c in args.categories or [None] for _ in range(args.num)]
        return [
            Job(name, asked, (f"{name}.{args.format}",), asked.told())
            for i, category in enumerate(kinds)
            for name, asked in ((sample_name(i), Asked(i, category, args.prompt)),)
        ]

    def settings(self, args: Any, pipe: ShapePipeline) -> dict[str, Any]:
        """Return the options as they are resolved."""
        options = pipe.options(**made_by(args), **surface_by(args))
        return options.described() | {"up": args.up, "size": args.size}

    def chunks(self, args: Any, pipe: ShapePipeline, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the shapes into calls."""
        yield from (jobs[i : i + TOGETHER] for i in range(0, len(jobs), TOGETHER))

    def loads(self, args: Any, pipe: ShapePipeline, jobs: list[Job]) -> list[Load]:
        """Return what goes through the flow, and the surfaces."""
        return loads_of(args, pipe, len(jobs))

    def lighter(self, rows: int, tokens: int) -> str:
        """Name what makes a shape cheaper."""
        return "fewer --tokens or a lower --depth"

    def make(
        self, args: Any, pipe: ShapePipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Sample some shapes in one call."""
        asked = [job.asked for job in jobs]
        result = pipe(asked, progress=progress, **made_by(args), **surface_by(args))
        return result.write(folder, f".{args.format}", up=args.up, size=args.size), result.seconds

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return the certificate of each shape."""
        lines = [super().tell(args, document)]
        rows = [
            {
                "file": row["files"][0],
                "asked": row.get("category") or row.get("prompt") or "any",
                "faces": row["certificate"]["faces"],
                "components": row["certificate"]["components"],
                "passed": str(row["certificate"]["passed"]).lower(),
            }
            for row in document["samples"]
        ]
        return "\n".join([*lines, table(rows)]) if rows else lines[0]


main = Sample()
