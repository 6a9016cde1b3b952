"""``rectiflow imaging reconstruct``: volumes from few views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rectiflow.commands import Parser, positive, table

from rectiflow_cli.imaging.images import OfImages

METHODS = ("fbp", "tv", "prior", "stack")
PRIORS = {"prior", "stack"}


class Reconstruct(OfImages):
    """Scan volumes from few views in a trial, and reconstruct them.

    By filtered back-projection (fbp), the least total variation of each slice (tv), a prior of
    slices (prior), and the prior with variation between the slices (stack, DiffusionMBIR). Images
    are brought to --side, or to that of the prior; the truth at that side is written too.
    """

    name = "reconstruct"
    examples = (
        "body.npz --views 8 -o made",
        "scan.nii.gz --method fbp prior stack --weights runs/prior --views 16 -o made",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the scan and the methods."""
        self.add_images(parser)
        add = parser.group("scan and methods")
        add("--views", type=positive, default=8, help="Angles, evenly over half a turn.")
        add(
            "--noise",
            type=float,
            default=0.0,
            help="Deviation of noise in the readings, as a share of the largest.",
        )
        add(
            "--method",
            nargs="+",
            choices=METHODS,
            default=METHODS[:2],
            help="Which are compared; prior and stack take --weights.",
        )
        add("--side", type=positive, default=64, help="Of the slices, without a prior.")
        add("--steps", type=positive, default=40, help="Of the prior's flow.")

    def load(self, args: Any) -> Any:
        """Load the prior, where a method needs it."""
        if PRIORS & set(args.method):
            return super().load(args)
        return self.kind()(side=args.side)  # type: ignore[call-arg]

    def parts(self, args: Any) -> Sequence[str]:
        """Return the truth and the methods."""
        return ("truth", *args.method)

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the images."""
        told = {"views": args.views, "noise": args.noise, "steps": args.steps}
        return told | {"methods": list(args.method), "side": pipe.side, "seed": args.seed}

    def made(self, args: Any, pipe: Any, volume: Any) -> Any:
        """Scan and reconstruct one."""
        from rectiflow_imaging.reconstruction import methods

        known = methods(args.steps)
        asked = {name: known[name] for name in args.method}
        return pipe.reconstruct(volume, asked, views=args.views, sigma=args.noise, seed=args.seed)

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return how near each comes to the truth."""
        keys = ("psnr", "ssim", "variation")
        rows = [
            {"image": row["name"], "method": name, **{key: part[key] for key in keys}}
            for row in document["samples"]
            for name, part in row["images"].items()
            if name != "truth"
        ]
        return f"{table(rows)}\n{super().tell(args, document)}"


main = Reconstruct()
