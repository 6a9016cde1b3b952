"""``rectiflow imaging deform``: more of an image, by plausible deformations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rectiflow.commands import Parser, positive, table

from rectiflow_cli.imaging.images import OfImages


class Deform(OfImages):
    """Deform images plausibly, their labels with them: augmentation by DRDM.

    A random deformation is made milder step by step by the network. Labels in an NPZ are moved to
    the nearest. Slices of a volume move together under a network of two dimensions.
    """

    name = "deform"
    pipeline = "rectiflow_imaging.pipeline:DeformationPipeline"
    trained_by = "train experiment=small_drdm"
    examples = (
        "body.npz --num 8 --weights runs/drdm -o deformed",
        "scan.nii.gz --num 8 --level 60 --weights runs/drdm -o deformed",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add how many and how strong."""
        self.add_images(parser)
        add = parser.group("deformation")
        add("--num", type=positive, default=8, help="How many of each image.")
        add("--level", type=int, default=48, help="Step whose random deformation is begun with.")
        add("--steps", type=int, help="Of recovery; all of the network's if absent, 0 for none.")

    def parts(self, args: Any) -> Sequence[str]:
        """Return the names of the deformed images."""
        return [f"deformed_{i:04d}" for i in range(args.num)]

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the images."""
        return {"level": args.level, "steps": args.steps, "num": args.num, "seed": args.seed}

    def made(self, args: Any, pipe: Any, volume: Any) -> Any:
        """Deform one."""
        told = {"level": args.level, "steps": args.steps, "seed": args.seed}
        return pipe(volume, range(args.num), **told)

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return how strong and how foldless the deformations are."""
        keys = ("largest_displacement", "mean_displacement", "folded")
        rows = [
            {"image": f"{row['name']}_{name}", **{key: part[key] for key in keys}}
            for row in document["samples"]
            for name, part in row["images"].items()
        ]
        return f"{table(rows)}\n{super().tell(args, document)}"


main = Deform()
