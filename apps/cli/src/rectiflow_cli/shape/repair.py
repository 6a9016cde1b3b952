"""``rectiflow shape repair``: a watertight copy of a mesh."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer
from rectiflow.storage.folders import claim_file

from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_surface, certified, check_format, write_one


class Repair(Shape, Verb):
    """Write a watertight, manifold copy of a mesh, and say how far it is from it."""

    name = "repair"
    examples = (
        "scan.stl -o whole.glb --input-up z",
        "chair.obj -o chair.stl --faces 50000 --largest --up z --size 120",
    )

    def flags(self, parser: Parser) -> None:
        """Add input, output and what is done between."""
        add = parser.group("input and output")
        add("mesh", metavar="MESH", help="GLB, glTF, OBJ, PLY, STL or OFF.")
        add("-o", "--out", required=True, metavar="OUT", help="GLB, OBJ, PLY, STL or OFF.")
        add("--input-up", choices=("x", "y", "z"), help="Which axis of MESH is up, if not y.")
        add(
            "--thickness",
            type=float,
            help="Half of the thickness that sheets are given, in the unit of MESH; a cell if "
            "absent.",
        )
        add_surface(parser)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Read, convert, write, certify."""
        from rectiflow_shape.geometry import watertight
        from rectiflow_shape.io import read_mesh

        source, out = Path(args.mesh), Path(args.out)
        check_format(out)
        with claim_file(out, inputs=[source], overwrite=args.overwrite):
            mesh, report = read_mesh(source, up=args.input_up)
            made = watertight(mesh, depth=args.depth or 8, thickness=args.thickness)
            _, judged = write_one(args, made.mesh, source)
        distances = {name: value for name, value in asdict(made).items() if name != "mesh"}
        document = {
            "input": source,
            "file": out,
            "repaired": report.sentences(),
            "distances": distances,
            "certificate": judged.document(),
        }
        lines = [
            *report.sentences(),
            f"from the input to the copy {made.mean:.3g} on average, {made.largest:.3g} at most; "
            f"back {made.mean_back:.3g} and {made.largest_back:.3g}; a cell is {made.cell:.3g}",
            certified(judged),
            f"wrote {out}",
        ]
        answer(document, "\n".join(lines), as_json=args.json)
        return 0


main = Repair()
