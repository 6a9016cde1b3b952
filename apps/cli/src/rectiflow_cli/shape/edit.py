"""``rectiflow shape edit``: a part of a mesh drawn anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rectiflow_cli.shape.one import OneMesh, add_asked, add_box, asked_by

if TYPE_CHECKING:
    from rectiflow_shape import ShapePipeline, ShapeResult


class Edit(OneMesh):
    """Draw what lies in a box of a mesh anew, and leave the rest.

    The result is closed. Outside of the box it is the closed copy of the mesh at the same depth,
    vertex for vertex; another seed draws another inside.
    """

    name, unit = "edit", "mesh"
    examples = (
        "chair.glb --region -0.5 0.4 -0.5 0.5 1 0.5 --category seat -o edited.glb",
        'lamp.obj --region -1 0 -1 1 0.3 1 --prompt "a low-poly lamp: floor" -o edited.glb',
    )
    own = ("region", "doubt", "category", "prompt", "input_up")

    def add_input(self, add: Any) -> None:
        """Add the mesh, the box, and what is to be there."""
        add("input", metavar="MESH", help="GLB, glTF, OBJ, PLY, STL or OFF.")
        add("--input-up", choices=("x", "y", "z"), help="Which axis of MESH is up, if not y.")
        add_box(add, "--region", required=True, help="The box, in the unit of MESH, y up.")
        add("--doubt", type=float, default=1.0, help="Of what is there: 1 forgets it, 0 keeps it.")
        add_asked(add)

    def result(self, args: Any, pipe: ShapePipeline, path: Path, **told: Any) -> ShapeResult:
        """Read and edit."""
        from rectiflow_shape.completion import edit
        from rectiflow_shape.io import read_mesh

        mesh, _ = read_mesh(path, up=args.input_up)
        region = np.array(args.region).reshape(2, 3)
        return edit(pipe, mesh, region, doubt=args.doubt, asked=asked_by(args), **told)


main = Edit()
