"""``rectiflow shape complete``: the whole of an object of which a part was scanned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rectiflow_cli.shape.one import OneMesh, add_asked, add_box, asked_by

if TYPE_CHECKING:
    from rectiflow_shape import ShapePipeline, ShapeResult


class Complete(OneMesh):
    """Complete a half-scanned object: a part of a mesh, points, or a depth map.

    What was scanned is kept. Beyond it come its images under the symmetries that the scan shows
    about the upright axis; where it shows none, its mirror image, of which the flow keeps what it
    holds possible.
    """

    name, unit = "complete", "scan"
    examples = (
        "scan.ply --category seat --box -0.4 0 -0.4 0.4 0.9 0.4 -o whole.glb",
        "depth.png --intrinsics 525 525 319.5 239.5 -o whole.glb",
    )
    own = ("box", "doubt", "category", "prompt", "eye", "intrinsics", "unit", "input_up")

    def add_input(self, add: Any) -> None:
        """Add the scan, and what is known of the object."""
        add("input", metavar="SCAN", help="A mesh; points in PLY, OBJ, NPZ; depth in PNG, NPZ.")
        add("--input-up", choices=("x", "y", "z"), help="Which axis of SCAN is up, if not y.")
        add("--eye", type=float, nargs=3, metavar=("X", "Y", "Z"),
            help="Where points without normals were seen from.")  # fmt: skip
        add("--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"),
            help="Of the camera of a PNG, in pixels.")  # fmt: skip
        add("--unit", type=float, default=1e-3, help="Of a step of a PNG's depth; 0.001 is mm.")
        add_box(add, "--box", help="Bounds of the whole object, y up; as deep behind the scan as "
            "it is itself, if absent.")  # fmt: skip
        add("--doubt", type=float, default=0.4, help="Of what the scan says nothing about: 1 has "
            "it drawn from noise, 0 mirrored.")  # fmt: skip
        add_asked(add)

    def result(self, args: Any, pipe: ShapePipeline, path: Path, **told: Any) -> ShapeResult:
        """Read and complete."""
        from rectiflow_shape.completion import complete
        from rectiflow_shape.io import read_scan

        scan = read_scan(
            path,
            up=args.input_up,
            eye=None if args.eye is None else np.array(args.eye),
            intrinsics=args.intrinsics,
            unit=args.unit,
            seed=args.seed,
        )
        box = None if args.box is None else np.array(args.box).reshape(2, 3)
        return complete(pipe, scan, box=box, doubt=args.doubt, asked=asked_by(args), **told)


main = Complete()
