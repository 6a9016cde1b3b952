"""``rectiflow imaging phantoms``: bodies that are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer, positive
from rectiflow.storage.folders import claim

from rectiflow_cli.errors import UsageError
from rectiflow_cli.imaging.flags import FORMATS, Imaging

FAMILIES = ("shepp-logan", "ellipsoids", "vessels")


class Phantoms(Imaging, Verb):
    """Make bodies up: heads of Shepp and Logan, ellipsoids with organs, or trees of vessels.

    NPZ files hold the labels of all structures as well.
    """

    name = "phantoms"
    examples = ("--num 20 -o bodies", "--family vessels --num 4 --format nii.gz -o vessels")

    def flags(self, parser: Parser) -> None:
        """Add what is made."""
        add = parser.group("bodies")
        add("--family", choices=FAMILIES, default="ellipsoids", help="Which kind.")
        add("--num", type=positive, default=8, help="How many.")
        add("--side", type=positive, default=48, help="Rows and columns of a slice.")
        add("--slices", type=positive, default=24, help="Of a body; 1 is its middle.")
        add("--seed", type=int, default=0, help="Another seed makes other bodies.")
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=FORMATS, default="npz", help="Of the files.")
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Make and write them."""
        from rectiflow_imaging.data.synthetic import phantom_files

        if args.side < 8:
            raise UsageError(f"--side must be at least 8, got {args.side}.")
        out, suffix = Path(args.out), f".{args.format}"
        names = [f"{args.family}_{i:04d}{suffix}" for i in range(args.num)]
        with claim(out, "imaging phantoms", names, overwrite=args.overwrite):
            files = phantom_files(
                out,
                args.num,
                family=args.family,
                shape=(args.slices, args.side, args.side),
                suffix=suffix,
                seed=args.seed,
            )
        document = {"folder": out, "files": [path.name for path in files]}
        text = f"{len(files)} bodies written to {out}"
        answer(document, text, as_json=args.json)
        return 0


main = Phantoms()
