"""``rectiflow imaging eval``: images against others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, positive, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.imaging.flags import Imaging

if TYPE_CHECKING:
    from rectiflow.evaluation import Evaluation


class Eval(Imaging, commands.Evaluate):
    """Measure images against a true one, or with --weights what a prior reconstructs of volumes."""

    examples = (
        "made/body_tv.npz made/body_stack.npz --truth made/body_truth.npz",
        "bodies/ellipsoids_0000.npz --weights runs/prior --views 8 16 -o measured",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add what is measured, and the scan."""
        add = parser.group("images")
        add("paths", metavar="IMAGE", nargs="+", help="Images, or with --weights volumes to scan.")
        add("--truth", metavar="IMAGE", help="What they are measured against.")
        add = parser.group("scan")
        add("--views", type=positive, nargs="+", default=[8, 16], help="Numbers of angles.")
        add("--steps", type=positive, default=40, help="Of the prior's flow.")

    def measure(self, args: Any, progress: Callable[[float, float], None]) -> Measured:
        """Measure each."""
        import numpy as np
        from rectiflow.evaluation import Evaluation

        if (args.weights is None) == (args.truth is None):
            raise UsageError("eval takes one of --truth IMAGE and --weights WEIGHTS.")
        items = {str(path): path for path in args.paths}
        opened = _Compared(args.truth) if args.truth else _Scanned(self, args)
        found, failed = self.each(args, opened, items, progress)
        rows = [{"name": Path(name).name, **row} for name, own in found.items() for row in own]
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            key = f"{row['method']}, {row['views']} views" if "views" in row else "all"
            groups.setdefault(key, []).append(row)
        summary = {
            key: {name: float(np.mean([row[name] for row in own])) for name in ("psnr", "ssim")}
            for key, own in groups.items()
        }
        return Measured(Evaluation(rows, summary, failed))

    def tell(self, found: Evaluation) -> str:
        """Return the means."""
        return table([{"of": key, **values} for key, values in found.summary.items()])


class _Compared:
    """Opens a true image, and measures others against it."""

    def __init__(self, truth: str) -> None:
        self.truth = truth

    def __call__(self) -> Callable[[str], list[dict[str, Any]]]:
        import torch
        from rectiflow_imaging.io import read_volume
        from rectiflow_imaging.metrics import psnr, ssim

        truth = torch.from_numpy(read_volume(self.truth).values)
        span = (truth.max() - truth.min()).item() or 1.0

        def measure(path: str) -> list[dict[str, Any]]:
            x = torch.from_numpy(read_volume(path).values)
            if x.shape != truth.shape:
                raise UsageError(
                    f"{path} is of shape {tuple(x.shape)}, {self.truth} of {tuple(truth.shape)}; "
                    "expected one shape."
                )
            return [{"psnr": psnr(x, truth, span=span), "ssim": ssim(x, truth, span=span)}]

        return measure


class _Scanned:
    """Loads a prior, and measures what each method makes of volumes."""

    def __init__(self, verb: Eval, args: Any) -> None:
        self.verb, self.args = verb, args

    def __call__(self) -> Callable[[str], list[dict[str, Any]]]:
        from rectiflow_imaging.io import read_volume
        from rectiflow_imaging.reconstruction import methods

        pipe, args = self.verb.load(self.args), self.args

        def measure(path: str) -> list[dict[str, Any]]:
            volume, known = read_volume(path), methods(args.steps)
            return [
                {"views": views, "method": name, **row}
                for views in args.views
                for name, row in pipe.reconstruct(
                    volume, known, views=views, seed=args.seed
                ).measured.items()
            ]

        return measure


main = Eval()
