"""Flags that several commands of trajectories share."""

from __future__ import annotations

from typing import Any

from rectiflow.commands import Parser, add_sampler, positive


def add_flow(parser: Parser) -> None:
    """Add how the flow is solved."""
    add = parser.group("flow")
    add("--steps", type=positive, help="Of the solver; the checkpoint's own if absent.")
    add_sampler(add, "euler")


def add_files(add: Any) -> None:
    """Add how files are read."""
    add("--unit", default="", help="Of lengths, where a file does not tell: m, nm, angstrom, ...")
    add(
        "--unwrap",
        action="store_true",
        help="Follow nodes across the faces of a periodic box; without it such files are refused.",
    )


def flow_by(args: Any) -> dict[str, Any]:
    """Return the pipeline's arguments that the flags stand for."""
    return {"steps": args.steps, "solver": args.solver, "grid": args.grid, "seed": args.seed}
