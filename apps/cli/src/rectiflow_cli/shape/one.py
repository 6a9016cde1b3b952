"""What verbs share that make one mesh of one input."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick
from rectiflow.costs import Load
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import (
    add_flow,
    add_surface,
    check_format,
    loads_of,
    made_by,
    surface_by,
)

if TYPE_CHECKING:
    from rectiflow_shape import Asked, ShapePipeline, ShapeResult


class OneMesh(Shape, commands.Make):
    """Makes one mesh of one input."""

    own: tuple[str, ...] = ()
    """Names of the flags, beside those of all shapes, that shape the result."""

    def own_flags(self, parser: Parser) -> None:
        """Add the input and where the mesh goes."""
        add = parser.group("input and output")
        self.add_input(add)
        add("-o", "--out", required=True, metavar="OUT", help="The mesh to write, such as out.glb.")
        add_surface(parser)
        add_flow(parser)

    @abstractmethod
    def add_input(self, add: Any) -> None:
        """Add ``input`` and what is said of it."""

    def jobs(self, args: Any) -> list[Job]:
        """Return the one job."""
        path, out = Path(args.input), Path(args.out)
        check_format(out)
        digest = digest_of_file(path) if path.is_file() else ""
        told = {"input": str(path), "input_sha256": digest}
        return [Job(out.stem, path, (out.name,), told, True, path)]

    def place(self, args: Any) -> dict[str, Any]:
        """Keep the listing beside the mesh, under its name."""
        out = Path(args.out)
        return {"folder": out.parent, "stem": out.stem, "replace": True}

    def settings(self, args: Any, pipe: ShapePipeline) -> dict[str, Any]:
        """Return the options as they are resolved."""
        options = pipe.options(**made_by(args), **surface_by(args))
        own = {name: getattr(args, name) for name in self.own}
        return options.described() | {"up": args.up, "size": args.size} | own

    def loads(self, args: Any, pipe: ShapePipeline, jobs: list[Job]) -> list[Load]:
        """Return what goes through the flow, and the surfaces."""
        return loads_of(args, pipe, len(jobs))

    def lighter(self, rows: int, tokens: int) -> str:
        """Name what makes a shape cheaper."""
        return "fewer --tokens or a lower --depth"

    @abstractmethod
    def result(self, args: Any, pipe: ShapePipeline, path: Path, **told: Any) -> ShapeResult:
        """Return the one shape, of ``told`` as the pipeline takes it."""

    def make(
        self, args: Any, pipe: ShapePipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Make the mesh and write it."""
        from rectiflow_shape.io import write_mesh

        [job] = jobs
        told = made_by(args) | surface_by(args) | {"progress": progress}
        result = self.result(args, pipe, job.asked, **told)
        [sample] = result.samples
        told = {"up": args.up, "size": args.size, "faces": args.faces}
        write_mesh(folder / job.files[0], sample.mesh, **told)
        row = {"name": job.name, "files": list(job.files), **sample.told, **job.expected}
        return [row], result.seconds


def add_asked(add: Any) -> None:
    """Add what a shape is."""
    add("--category", help="What it is, a class that the weights know; anything if absent.")
    add("--prompt", help="What it is, in words.")


def asked_by(args: Any) -> Asked:
    """Return what the flags say of it."""
    from rectiflow_shape import Asked

    return Asked(0, args.category, args.prompt)


def add_box(add: Any, name: str, **told: Any) -> None:
    """Add a box."""
    add(name, type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"), **told)
