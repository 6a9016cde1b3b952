"""``rectiflow imaging prepare``: images and volumes to shards."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive

from rectiflow_cli.imaging.flags import Imaging


class Prepare(Imaging, commands.Prepare):
    """Turn images and volumes into shards of square slices, or of cubes, to train on.

    The values of each file are scaled to one range; slices of a file stay in one split.
    """

    examples = ("bodies -o shards", "scans -o shards --side 64 --cubes")
    takes = "DICOM files, folders of DICOM series, NIfTI, PNG and NPZ."
    then = "train data.dir={folder} experiment=small"

    def own_flags(self, parser: Parser) -> None:
        """Add the size."""
        add = parser.group("images")
        add("--side", type=positive, default=32, help="Of the squares or cubes, a multiple of 8.")
        add("--cubes", action="store_true", help="Keep volumes whole, for experiment=drdm_3d.")

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the images."""
        from rectiflow_imaging.data import prepare

        return prepare(args.folder, args.out, side=args.side, cubes=args.cubes, **how)


main = Prepare()
