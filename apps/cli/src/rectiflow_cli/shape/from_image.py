"""``rectiflow shape from-image``: a mesh of what a picture shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.shape.one import OneMesh

if TYPE_CHECKING:
    from rectiflow_shape import ShapePipeline, ShapeResult


class FromImage(OneMesh):
    """Make a closed mesh of what a picture shows; needs weights with an image encoder.

    The object is what the alpha channel says, or what stands before a white background.
    """

    name, unit = "from-image", "picture"
    examples = (
        "photo.png --weights TripoSG -o out.glb",
        "photo.png --weights TripoSG --tokens 4096 --faces 50000 --low-memory -o out.glb",
    )

    def add_input(self, add: Any) -> None:
        """Add the picture."""
        add("input", metavar="IMAGE", help="A picture, cut out or on white.")
        add("--low-memory", action="store_true", help="Keep one network on the device at a time.")

    def result(self, args: Any, pipe: ShapePipeline, path: Path, **told: Any) -> ShapeResult:
        """Make the shape."""
        from rectiflow_shape import Asked
        from rectiflow_shape.io import pixels, read_image

        asked = Asked(0, image=pixels(read_image(path)))
        return pipe(asked, low_memory=args.low_memory, **told)


main = FromImage()
