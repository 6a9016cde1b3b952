"""``rectiflow shape prepare``: meshes to shards of samples."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive

from rectiflow_cli.shape import flags


class Prepare(flags.Shape, commands.Prepare):
    """Turn a folder of meshes into shards of samples of their signed distance to train on."""

    examples = (
        "meshes -o shards --workers 4",
        "meshes -o shards --up z --views 8 --thickness 0.02",
    )
    takes = (
        "Mesh files (GLB, OBJ, PLY, STL, OFF), and if there is one metadata.csv with file, and "
        "class, caption and split where known."
    )
    then = "train data.dir={folder}"
    mend = "Correct the table or the files, into a new folder."

    def own_flags(self, parser: Parser) -> None:
        """Add what is drawn of each shape."""
        add = parser.group("samples")
        flags.add_up(add)
        add("--surface", type=positive, default=20_480, help="Points on the surface.")
        add("--near", type=positive, default=16_384, help="Points around it, with distances.")
        add("--volume", type=positive, default=8_192, help="Points in the box, with distances.")
        add(
            "--thickness",
            type=float,
            default=0.01,
            help="Half of the thickness that sheets are given; a shape has a half extent of 0.95.",
        )
        add("--views", type=int, default=0, help="Pictures of each, for image conditions.")
        add("--pixels", type=positive, default=224, help="Their side.")

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the shapes."""
        from rectiflow_shape.data import Samples, prepare

        drawn = ("surface", "near", "volume", "thickness", "views", "pixels")
        return prepare(
            args.folder,
            args.out,
            samples=Samples(**{name: getattr(args, name) for name in drawn}),
            up=args.up,
            **how,
        )


main = Prepare()
