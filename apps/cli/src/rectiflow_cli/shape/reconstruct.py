"""``rectiflow shape reconstruct``: a mesh through a representation and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rectiflow.commands import Parser, Verb, answer, pick_device, positive

from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_fit, add_surface, certified, fit_settings, write_one


class Reconstruct(Shape, Verb):
    """Rebuild any mesh as a closed one, by a Mosaic-SDF or by a TripoSG autoencoder.

    Tells how far the result is from the input, both scaled to 1.9 along their longest side.
    """

    name = "reconstruct"
    examples = (
        "chair.glb -o closed.glb",
        "chair.glb --weights triposg -o closed.glb",
    )

    def flags(self, parser: Parser) -> None:
        """Add the mesh, the representation and the surface."""
        add = parser.group("input and output")
        add("mesh", metavar="MESH", help="Any mesh.")
        add("-o", "--out", required=True, metavar="OUT", help="The mesh to write.")
        add("--weights", help="Weights with an autoencoder; a mosaic is fitted if absent.")
        add("--tokens", type=positive, help="Of the autoencoder; as trained if absent.")
        add("--seed", type=int, default=0, help="Of what is drawn.")
        parser.add_device(add)
        add_fit(parser)
        add_surface(parser)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Rebuild, write and compare."""
        from rectiflow_shape import reconstruction
        from rectiflow_shape.geometry import normalise
        from rectiflow_shape.io import read_mesh

        started, source = time.perf_counter(), Path(args.mesh)
        mesh, report = read_mesh(source)
        normal, placement = normalise(mesh)
        generator = torch.Generator().manual_seed(args.seed)
        device = pick_device(args.device)
        told: dict[str, Any] = {"input": source, "repaired": report.sentences()}
        if args.weights is None:
            fitted = reconstruction.mosaic_of(normal, fit_settings(args), generator, device)
            found = reconstruction.by_mosaic(fitted, args.depth or 7, device)
            told |= {"grids": args.grids, "sdf_error": fitted.error}
        else:
            from rectiflow_cli.shape.encode import autoencoder

            pipe = autoencoder(args.weights, device)
            tokens = args.tokens or pipe.settings.tokens
            encoded = reconstruction.encode(pipe.vae, normal, tokens, generator)
            found = reconstruction.by_vae(pipe.vae, encoded, args.depth or pipe.settings.depth)
            told |= {"weights": args.weights, "tokens": tokens}
        errors = reconstruction.compare(found.mesh, normal, generator)
        out, judged = write_one(args, placement.restore(found.mesh), source)
        seconds = time.perf_counter() - started
        document = told | {"file": out, "errors": errors, "certificate": judged.document()}
        document |= {"queries": found.queries, "seconds": round(seconds, 2)}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in errors.items())
        lines = [*report.sentences(), shown, certified(judged), f"wrote {out} in {seconds:.1f} s"]
        answer(document, "\n".join(lines), as_json=args.json)
        return 0


main = Reconstruct()
