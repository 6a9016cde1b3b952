"""``rectiflow shape fuse``: a closed mesh of normal maps from several sides."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer, positive

from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_surface, certified, check_format, write_one


class Fuse(Shape, Verb):
    """Make a closed mesh of normal maps, by Direct2.5's fusion.

    Four maps are seen from azimuths 0, 90, 180 and 270 degrees, at a distance of 1.5 with a field
    of view of 60 degrees; other views are told in a JSON.
    """

    name = "fuse"
    examples = (
        "front.png right.png back.png left.png -o whole.glb",
        "views.json --axes view --faces 5000 -o whole.glb",
    )

    def flags(self, parser: Parser) -> None:
        """Add the maps and how they are fused."""
        add = parser.group("input and output")
        add("maps", metavar="NORMALS", nargs="+", help="PNGs of (n + 1) / 2, or one JSON of views.")
        add("-o", "--out", required=True, metavar="OUT", help="The mesh to write.")
        add("--axes", choices=("world", "view", "generator"), default="world",
            help="Of the normals: the world's, those of each camera (right, up, towards it), or "
            "those of Direct2.5's generator.")  # fmt: skip
        add = parser.group("fusion")
        add("--steps", type=positive, nargs="+", default=[80, 120],
            help="Of each stage, a lattice of twice as many cells a side as the one before; the "
            "last has 64.")  # fmt: skip
        add("--pixels", type=positive, default=128, help="Of a side that are compared.")
        add_surface(parser)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Read, fuse, write and certify."""
        from rectiflow_shape.fusion import FusionSettings, fuse_normals
        from rectiflow_shape.io import read_normals

        started = time.perf_counter()
        check_format(Path(args.out))
        if len(args.steps) > 4:
            raise ValueError(f"--steps has 1 to 4 stages, got {len(args.steps)}.")
        settings = FusionSettings(
            steps=tuple(args.steps),
            depths=tuple(range(7 - len(args.steps), 7)),
            depth=args.depth or 7,
            size=args.pixels,
        )
        maps = read_normals(args.maps, args.axes)
        fused = fuse_normals(maps.normals, maps.masks, maps.cameras, settings)
        out, judged = write_one(args, fused.mesh)
        seconds = time.perf_counter() - started
        first, last = fused.errors[0], fused.errors[-1]
        document = {
            "input": [str(path) for path in args.maps],
            "file": out,
            "error": {"hull": first, "mesh": last},
            "certificate": judged.document(),
            "seconds": round(seconds, 2),
        }
        lines = [
            f"pictures differ by {last:.4f}, those of the visual hull by {first:.4f}",
            certified(judged),
            f"wrote {out} in {seconds:.1f} s",
        ]
        answer(document, "\n".join(lines), as_json=args.json)
        return 0


main = Fuse()
