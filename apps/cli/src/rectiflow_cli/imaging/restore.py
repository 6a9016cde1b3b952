"""``rectiflow imaging restore``: images without their noise and blur."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rectiflow.commands import Job, Parser, positive, table
from rectiflow.costs import Load

from rectiflow_cli.imaging.images import OfImages


class Restore(OfImages):
    """Restore images that are noisy or blurred as those of the training were.

    With weights of PMRF: the posterior mean, and a sample that looks like data near it. With those
    of RDDM: a sample of the residual diffusion.
    """

    name = "restore"
    pipeline = "rectiflow_imaging.restoration:RestorationPipeline"
    examples = (
        "noisy.npz -o restored",
        "body.npz --trial --steps 10 --weights runs/rddm -o restored",
    )

    def flags(self, parser: Parser) -> None:
        """Take the restorer that ships where no other is named."""
        super().flags(parser)
        parser.set_defaults(weights="small_pmrf")

    def own_flags(self, parser: Parser) -> None:
        """Add the images, and how they are restored."""
        self.add_images(parser)
        add = parser.group("restoration")
        add("--steps", type=positive, default=25, help="Of the flow or the diffusion.")
        add(
            "--trial",
            action="store_true",
            help="Degrade each image first, and tell how near everything comes to it.",
        )

    def parts(self, args: Any) -> Sequence[str]:
        """Return the names of what every network makes."""
        return ("restored",)

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the images."""
        return {"steps": args.steps, "trial": args.trial, "seed": args.seed}

    def loads(self, args: Any, pipe: Any, jobs: list[Job]) -> list[Load]:
        """Return the slices that go through the network together."""
        return [Load(slices, side**2, args.steps) for slices, side in self.sizes(jobs)]

    def made(self, args: Any, pipe: Any, volume: Any) -> Any:
        """Restore one."""
        return pipe(volume, steps=args.steps, seed=args.seed, trial=args.trial)

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return how near each comes to the truth of a trial."""
        rows = [
            {"image": f"{row['name']}_{name}", "psnr": part["psnr"], "ssim": part["ssim"]}
            for row in document["samples"]
            for name, part in row["images"].items()
            if "psnr" in part
        ]
        shown = f"{table(rows)}\n" if rows else ""
        return f"{shown}{super().tell(args, document)}"


main = Restore()
