"""``rectiflow shape fit``: a mesh as a mosaic, or a folder of them to train on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rectiflow.commands import Parser, Verb, answer, counter, pick_device, positive
from rectiflow.storage.folders import claim_file

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_fit, fit_settings

_HOW = ("seed", "batch", "device", "executor", "overwrite")
"""Flags of a folder that reach the fit as they are."""


class Fit(Shape, Verb):
    """Turn a mesh into a Mosaic-SDF, or a folder of meshes into data to train on.

    A mosaic is written as safetensors. A folder may hold metadata.csv with file, class, caption
    and split; a fit of it that was stopped goes on.
    """

    name = "fit"
    examples = (
        "chair.glb -o chair.safetensors --grids 512",
        "meshes -o mosaics --grids 128 --resolution 5 --workers 2",
    )

    def flags(self, parser: Parser) -> None:
        """Add meshes, the mosaic and where it goes."""
        add = parser.group("input and output")
        add("meshes", metavar="MESH", help="A mesh, or a folder of them.")
        add("-o", "--out", required=True, metavar="OUT", help="A file for a mesh, else a folder.")
        add("--boxes", metavar="FILE", help="Write the cubes of one mosaic as a mesh to look at.")
        add("--up", choices=("x", "y", "z"), help="Which axis of the input is up.")
        add_fit(parser)
        add = parser.group("work")
        add("--batch", type=positive, default=8, help="Shapes of a folder optimised together.")
        add("--seed", type=int, default=0, help="Of what is drawn.")
        parser.add_device(add)
        parser.add_executor()
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Fit, and tell the error."""
        source = Path(args.meshes)
        return self._folder(args, source) if source.is_dir() else self._one(args, source)

    def _one(self, args: Any, source: Path) -> int:
        from rectiflow_shape.geometry import Mesh, normalise
        from rectiflow_shape.io import read_mesh, write_mesh
        from rectiflow_shape.mosaic import write_mosaic
        from rectiflow_shape.reconstruction import mosaic_of

        out = Path(args.out)
        if out.suffix != ".safetensors":
            raise UsageError(f"a mosaic is a .safetensors file, got -o {out}; expected one.")
        started = time.perf_counter()
        mesh, report = read_mesh(source, up=args.up)
        device, generator = pick_device(args.device), torch.Generator().manual_seed(args.seed)
        fitted = mosaic_of(normalise(mesh)[0], fit_settings(args), generator, device)
        with claim_file(out, inputs=[source], overwrite=args.overwrite):
            write_mosaic(out, fitted.mosaic)
        files = [out]
        if args.boxes:
            vertices, faces = fitted.mosaic.boxes()
            boxes = Mesh(vertices.double().numpy(), faces.numpy())
            with claim_file(Path(args.boxes), inputs=[source], overwrite=args.overwrite):
                write_mesh(args.boxes, boxes)
            files.append(Path(args.boxes))
        seconds = time.perf_counter() - started
        document = {
            "input": source,
            "files": files,
            "repaired": report.sentences(),
            "grids": len(fitted.mosaic),
            "resolution": fitted.mosaic.resolution,
            "numbers": fitted.mosaic.numbers,
            "error_before": fitted.error_before,
            "error": fitted.error,
            "seconds": round(seconds, 2),
        }
        lines = [
            *report.sentences(),
            f"{len(fitted.mosaic)} grids of {fitted.mosaic.resolution}³ values in {seconds:.1f} s; "
            f"mean error of the distance near the surface {fitted.error:.2e} "
            f"(before the optimisation {fitted.error_before:.2e}), of a shape 1.9 long",
            f"wrote {', '.join(map(str, files))}",
        ]
        answer(document, "\n".join(lines), as_json=args.json)
        return 0

    def _folder(self, args: Any, source: Path) -> int:
        from rectiflow.storage.folders import places
        from rectiflow_shape.data.lists import list_shapes
        from rectiflow_shape.data.mosaics import Outlines, fit_all

        places(source, args.out, "meshes")
        told = list_shapes(source), Outlines(source, args.up), args.out, fit_settings(args)
        how = {name: getattr(args, name) for name in _HOW}
        with counter("fitting", unit="group", quiet=args.json) as show:
            report = fit_all(*told, progress=show, **how)
        then = f"next: rectiflow shape train data.dir={args.out} experiment=small"
        answer(vars(report), f"{report}\n{then}", as_json=args.json)
        return 0


main = Fit()
