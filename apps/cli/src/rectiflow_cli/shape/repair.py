"""``rectiflow shape repair``: a watertight copy of a mesh."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from rectiflow.commands import Parser, Verb, answer, positive
from rectiflow.storage.folders import claim_file

from rectiflow_cli.shape import flags


class Repair(Verb):
    """Write a watertight, manifold copy of a mesh, and say how far it is from it."""

    domain, name = "shape", "repair"
    examples = (
        "scan.stl -o whole.glb --up z",
        "chair.obj -o chair.stl --faces 50000 --largest --size 120",
    )

    def flags(self, parser: Parser) -> None:
        """Add input, output and what is done between."""
        add = parser.group("input and output")
        add("path", metavar="FILE", help="GLB, glTF, OBJ, PLY, STL or OFF.")
        add("-o", "--out", required=True, metavar="FILE", help="GLB, OBJ, PLY, STL or OFF.")
        flags.add_up(add)
        flags.add_output(parser)
        add = parser.group("conversion")
        add("--depth", type=positive, default=8, help="2^depth cells along the longest side.")
        add(
            "--thickness",
            type=float,
            help="Half of the thickness that sheets are given, in the file's units; a cell if "
            "absent.",
        )
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Namespace) -> int:
        """Read, convert, write, certify."""
        from rectiflow_shape.geometry import decimate, largest, watertight
        from rectiflow_shape.io import read_mesh, write_mesh

        source, out = Path(args.path), Path(args.out)
        with claim_file(out, inputs=[source], overwrite=args.overwrite):
            mesh, report = read_mesh(source, up=args.up)
            made = watertight(mesh, depth=args.depth, thickness=args.thickness)
            kept = largest(made.mesh) if args.largest else made.mesh
            kept = kept if args.faces is None else decimate(kept, args.faces)
            told = write_mesh(out, kept, up=args.up_out, size=args.size, faces=args.faces)
        distances = {k: v for k, v in asdict(made).items() if k != "mesh"}
        document = {
            "file": out,
            **told.document(),
            "distances": distances,
            "report": report.sentences(),
        }
        lines = [
            f"wrote {out}: {'passed' if told.passed else '; '.join(told.faults())}, {told.faces} "
            f"faces, {told.components} parts",
            f"from the input to it {made.mean:.3g} on average, {made.largest:.3g} at most; back "
            f"{made.mean_back:.3g} and {made.largest_back:.3g}; a cell is {made.cell:.3g}",
            *(f"  {sentence}" for sentence in report.sentences()),
        ]
        answer(document, "\n".join(lines), as_json=args.json)
        return 0


main = Repair()
