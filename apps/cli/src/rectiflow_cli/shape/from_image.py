"""``rectiflow shape from-image``: a mesh of what a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Parser
from rectiflow.costs import Load
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.shape.options import (
    add_flow,
    add_surface,
    check_format,
    loads_of,
    made_by,
    surface_by,
)

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline


class FromImage(commands.Make):
    """Make a closed mesh of what a picture shows; needs weights with an image encoder.

    The object is what the alpha channel says, or what stands before a white background.
    """

    domain, name, unit = "shape", "from-image", "picture"
    pipeline = "rectiflow_shape.pipeline:ShapePipeline"
    examples = (
        "photo.png --weights TripoSG -o out.glb",
        "photo.png --weights TripoSG --tokens 4096 --faces 50000 --low-memory -o out.glb",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the picture and where the mesh goes."""
        add = parser.group("picture")
        add("image", metavar="IMAGE", help="A picture, cut out or on white.")
        add("-o", "--out", required=True, metavar="OUT", help="The mesh to write, such as out.glb.")
        add("--low-memory", action="store_true", help="Keep one network on the device at a time.")
        add_surface(parser)
        add_flow(parser)

    def jobs(self, args: Any) -> list[Job]:
        """Return the one job."""
        path, out = Path(args.image), Path(args.out)
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
        return options.described() | {"up": args.up, "size": args.size}

    def loads(self, args: Any, pipe: ShapePipeline, jobs: list[Job]) -> list[Load]:
        """Return what goes through the flow, and the surfaces."""
        return loads_of(args, pipe, len(jobs))

    def lighter(self, rows: int, tokens: int) -> str:
        """Name what makes a shape cheaper."""
        return "fewer --tokens or a lower --depth"

    def make(
        self, args: Any, pipe: ShapePipeline, jobs: list[Job], folder: Path, progress: Any
    ) -> tuple[list[dict[str, Any]], float]:
        """Make the mesh."""
        from rectiflow_shape.io import pixels, read_image, write_mesh
        from rectiflow_shape.request import Asked

        [job] = jobs
        asked = Asked(0, image=pixels(read_image(job.asked)))
        options = made_by(args) | surface_by(args) | {"low_memory": args.low_memory}
        result = pipe(asked, progress=progress, **options)
        [sample] = result.samples
        told = {"up": args.up, "size": args.size, "faces": args.faces}
        write_mesh(folder / job.files[0], sample.mesh, **told)
        row = {"name": job.name, "files": list(job.files), **sample.told, **job.expected}
        return [row], result.seconds


main = FromImage()
