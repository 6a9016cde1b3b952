"""Flags that several shape commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser, add_rule, add_sampler, positive, sampling_of
from rectiflow.costs import Load
from rectiflow.storage.folders import claim_file

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_shape.geometry import Certificate, Mesh
    from rectiflow_shape.mosaic import FitSettings
    from rectiflow_shape.pipeline import ShapePipeline

FORMATS = ("glb", "obj", "ply", "stl", "off")


def add_flow(parser: Parser) -> None:
    """Add how the flow is solved."""
    add = parser.group("flow")
    add("--steps", type=positive, help="Of the solver; the checkpoint's own if absent.")
    add_sampler(add, None, "; midpoint for mosaics, Euler for latents if absent")
    add("--guidance", type=float, help="Its weight, 1 is none; the checkpoint's own if absent.")
    add_rule(add)
    add(
        "--interval",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="Times within which guidance acts, 0 at the noise and 1 at the shape; all if absent.",
    )
    add("--tokens", type=positive, help="Grids or latents of a shape; as trained if absent.")


def add_surface(parser: Parser) -> None:
    """Add how surfaces are found and written."""
    add = parser.group("surface")
    add("--depth", type=positive, help="A lattice of 2^DEPTH cells a side; as trained if absent.")
    add("--faces", type=positive, help="Reduce meshes to at most so many faces.")
    add("--largest", action="store_true", help="Keep the largest component only.")
    add("--up", choices=("x", "y", "z"), default="y", help="Which axis of the file is up.")
    add("--size", type=float, help="Longest side in the file's unit; as generated if absent.")


def add_fit(parser: Parser) -> None:
    """Add how a mosaic is fitted."""
    add = parser.group("mosaic")
    add("--grids", type=positive, default=256, help="How many; published are 1024.")
    add("--resolution", type=positive, default=7, help="Values along an edge of a grid.")
    add("--fit-steps", type=int, default=200, help="Of the optimisation; 0 for none.")


def fit_settings(args: argparse.Namespace) -> FitSettings:
    """Return what the flags say of a fit."""
    from rectiflow_shape.mosaic import FitSettings

    return FitSettings(grids=args.grids, resolution=args.resolution, steps=args.fit_steps)


def made_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return the pipeline's arguments that the flags stand for."""
    interval = None if args.interval is None else tuple(args.interval)
    return sampling_of(args) | {"interval": interval, "tokens": args.tokens}


def surface_by(args: argparse.Namespace) -> dict[str, Any]:
    """Return the rest of them."""
    return {"depth": args.depth, "faces": args.faces, "largest": args.largest}


def loads_of(args: argparse.Namespace, pipe: ShapePipeline, count: int) -> list[Load]:
    """Return what so many shapes come to: their way through the flow, and their surfaces."""
    told = pipe.options(**made_by(args), **surface_by(args))
    tokens, depth, nfe = int(told.tokens or 1), int(told.depth or 7), told.moves.nfe
    sizes = [min(told.rows, count - i) for i in range(0, count, told.rows)]
    flow = [Load(rows, tokens, nfe, part="flow") for rows in sizes]
    return [*flow, pipe.surface_load(depth, count)]


def write_one(
    args: argparse.Namespace, mesh: Mesh, source: Path | None = None
) -> tuple[Path, Certificate]:
    """Write the mesh that a command was asked for, reduced as its flags say."""
    from rectiflow_shape.geometry import decimate, largest
    from rectiflow_shape.io import write_mesh

    out = Path(args.out)
    check_format(out)
    mesh = largest(mesh) if args.largest else mesh
    mesh = mesh if args.faces is None else decimate(mesh, args.faces)
    with claim_file(out, inputs=[source] if source else [], overwrite=args.overwrite):
        told = {"up": args.up, "size": args.size, "faces": args.faces}
        return out, write_mesh(out, mesh, **told)


def check_format(out: Path) -> None:
    """Refuse the name of a file in a format that is not written."""
    if out.suffix.lower().removeprefix(".") not in FORMATS:
        raise UsageError(
            f"{out.suffix or 'no suffix'!r} cannot be written, got -o {out}; expected a file that "
            f"ends in {', '.join(f'.{name}' for name in FORMATS)}."
        )


def certified(judged: Certificate) -> str:
    """Return a certificate in one line."""
    said = "; ".join(judged.faults()) or "watertight, manifold and outward"
    return f"{judged.faces} faces in {judged.components} component(s): {said}"
