"""``rectiflow shape eval``: how shapes come back, and how generated ones compare with real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, pick_device, positive, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import (
    add_fit,
    add_flow,
    fit_settings,
    made_by,
)

if TYPE_CHECKING:
    import torch
    from rectiflow.evaluation import Evaluation
    from rectiflow_shape.geometry import Mesh

SHOWN = 16  # rows
TOGETHER = 16  # shapes that go through the network together


class Evaluate(Shape, commands.Evaluate):
    """Measure reconstructions of prepared shapes, or with --generate what a flow makes of noise.

    Without --weights, and with weights of mosaics, shapes are rebuilt by fitting a mosaic.
    """

    examples = (
        "shards -o measured --limit 20",
        "shards --weights small --generate 8 --steps 25 -o measured",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add data, and how shapes are made."""
        add = parser.group("shapes")
        add("shards", metavar="SHARDS", help="What `prepare` left.")
        add("--split", choices=("train", "valid", "test"), default="test", help="What is rebuilt.")
        add("--limit", type=positive, help="At most so many shapes, of each class if generated.")
        add("--generate", type=positive, metavar="N", help="Make N shapes of each class.")
        add("--depth", type=positive, default=7, help="A lattice of 2^DEPTH cells a side.")
        add_fit(parser)
        add_flow(parser)

    def measure(self, args: Any, progress: Any) -> Measured:
        """Measure as the flags ask."""
        from rectiflow_shape.data import PreparedShapes
        from rectiflow_shape.evaluation import chosen_rows, reconstructions

        prepared = PreparedShapes(args.shards)
        if args.generate:
            return Measured(self._generated(args, prepared, progress))
        chosen = chosen_rows(prepared, args.split, args.limit)
        found, failures = self.each(args, partial(self._rebuilding, args), chosen, progress)
        return Measured(reconstructions(list(found.values()), args.split, failures))

    def _rebuilding(self, args: Any) -> Callable[[int], dict[str, Any]]:
        """Load what rebuilds, and return what measures a row."""
        from rectiflow_shape.data import PreparedShapes
        from rectiflow_shape.evaluation import measure_reconstruction

        prepared, rebuild = PreparedShapes(args.shards), self._rebuild(args)
        return lambda row: measure_reconstruction(prepared, row, rebuild, seed=args.seed)

    def _rebuild(self, args: Any) -> Any:
        from rectiflow_shape import reconstruction
        from rectiflow_shape.pipeline import ShapeAutoencoder

        from rectiflow_cli.shape.encode import autoencoder

        pipe = None
        if args.weights is not None:
            is_alone = ShapeAutoencoder.is_at(args.weights)
            pipe = (
                autoencoder(args.weights, pick_device(args.device)) if is_alone else self.load(args)
            )
        if pipe is not None and pipe.vae is not None:

            def by_vae(mesh: Mesh, generator: torch.Generator) -> Mesh:
                tokens = args.tokens or pipe.settings.tokens
                encoded = reconstruction.encode(pipe.vae, mesh, tokens, generator)
                return reconstruction.by_vae(pipe.vae, encoded, args.depth).mesh

            return by_vae
        settings = fit_settings(args)

        def by_mosaic(mesh: Mesh, generator: torch.Generator) -> Mesh:
            fitted = reconstruction.mosaic_of(mesh, settings, generator)
            return reconstruction.by_mosaic(fitted, args.depth).mesh

        return by_mosaic

    def _generated(self, args: Any, prepared: Any, progress: Any) -> Evaluation:
        from rectiflow_shape.evaluation import evaluate_generation, meshes_by_class

        if args.weights is None:
            raise UsageError("--generate needs a flow; expected --weights.")
        held = meshes_by_class(prepared, ("test", "valid"), args.limit)
        known = meshes_by_class(prepared, ("train",), args.limit)
        found, _ = self.each(
            args,
            partial(self._generating, args),
            {
                f"{name} {first}": (name, range(args.generate)[first : first + TOGETHER])
                for name in self.load_to_describe(args).settings.classes
                if name in held
                for first in range(0, args.generate, TOGETHER)
            },
            progress,
        )
        made: dict[str, list[Any]] = {}
        for name, meshes in found.values():
            made.setdefault(name, []).extend(meshes)
        return evaluate_generation(made, held, known, seed=args.seed)

    def _generating(self, args: Any) -> Callable[[Any], Any]:
        """Load the flow, and return what makes some shapes of a class."""
        from rectiflow_shape.request import Asked

        pipe = self.load(args)

        def make(task: tuple[str, range]) -> tuple[str, list[Mesh]]:
            name, numbers = task
            asked = [Asked(i, name) for i in numbers]
            samples = pipe(asked, depth=args.depth, **made_by(args)).samples
            return name, [sample.mesh for sample in samples]

        return make

    def tell(self, found: Evaluation) -> str:
        """Return the rows and the means."""
        rows = found.rows[:SHOWN]
        means = ", ".join(f"{name} {value}" for name, value in found.summary.items())
        return f"{table(rows)}\n{means}" if rows else means


main = Evaluate()
