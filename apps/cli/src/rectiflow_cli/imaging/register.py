"""``rectiflow imaging register``: one image onto another."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer, pick_device, positive, table
from rectiflow.results import plain
from rectiflow.storage.folders import claim

from rectiflow_cli.errors import UsageError
from rectiflow_cli.imaging.flags import FORMATS, Imaging

LIKENESS = ("correlation", "squares")


class Register(Imaging, Verb):
    """Deform an image, without folds, so that it lies on another; its segmentation goes along.

    Labels of an NPZ are a segmentation. Where both images have one, the overlap (Dice) before and
    after is told: it is not looked at by the registration. No network is needed.
    """

    name = "register"
    examples = (
        "moving.npz fixed.npz -o registered",
        "moving.nii.gz fixed.nii.gz --segmentation organs.nii.gz --format nii.gz -o registered",
    )

    def flags(self, parser: Parser) -> None:
        """Add images, and how they are compared."""
        add = parser.group("input and output")
        add("moving", metavar="MOVING", help="DICOM, NIfTI, PNG or NPZ; what is deformed.")
        add("fixed", metavar="FIXED", help="What it is brought onto.")
        add("--segmentation", metavar="FILE", help="Labels of MOVING, in voxels as it is.")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="npz", help="Of the images.")
        add = parser.group("registration")
        add(
            "--by",
            choices=LIKENESS,
            default=LIKENESS[0],
            help="What is alike: correlation of neighbourhoods, whose brightness may differ; or "
            "values themselves, by squared differences.",
        )
        add("--stiffness", type=float, default=0.1, help="Weight of the prior: higher is stiffer.")
        add("--iterations", type=positive, default=60, help="In each of three rounds.")
        parser.add_device(add)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Read, register, write."""
        import numpy as np
        from rectiflow_imaging.io import read_volume
        from rectiflow_imaging.registration import LIKENESS, Registration, register

        if not args.stiffness >= 0:
            raise UsageError(f"--stiffness must be at least 0, got {args.stiffness}.")
        moving, fixed = read_volume(args.moving), read_volume(args.fixed)
        if args.segmentation:
            told = read_volume(args.segmentation).values
            if told.shape != moving.values.shape:
                raise UsageError(
                    f"{args.segmentation} is of shape {told.shape}, {args.moving} of "
                    f"{moving.values.shape}; expected one shape."
                )
            moving = replace(moving, labels=np.rint(told).astype(np.int16))
        method = Registration(LIKENESS[args.by], weight=args.stiffness, iterations=args.iterations)
        out, names = Path(args.out), ["registered", "segmentation"]
        files = [f"{name}.{args.format}" for name in names[: 1 + (moving.labels is not None)]]
        with claim(out, "imaging register", [*files, "field.npz"], overwrite=args.overwrite):
            made = register(moving, fixed, method, device=pick_device(args.device))
            rows = made.write(out, f".{args.format}")
        for line in made.warnings:
            sys.stderr.write(f"note: {line}\n")
        measured = made.measured["registered"]
        document = {"folder": out, "files": [f for row in rows for f in row["files"]], **measured}
        document |= {"notes": made.warnings, "seconds": made.seconds, **made.settings}
        shown = table([{"measure": key, "value": f"{v:.4g}"} for key, v in measured.items()])
        answer(plain(document), f"{shown}\nwritten to {out}", as_json=args.json)
        return 0


main = Register()
