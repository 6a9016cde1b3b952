"""Flags that several commands of trajectories share."""

from __future__ import annotations

from typing import Any

from rectiflow.commands import Parser, add_sampler, positive
from rectiflow.storage.splits import SPLITS


class Trajectories:
    """What every verb of this domain is."""

    domain, pipeline = "trajectories", "rectiflow_trajectories.pipeline:TrajectoryPipeline"


def add_flow(parser: Parser) -> None:
    """Add how the flow is solved."""
    add = parser.group("flow")
    add("--steps", type=positive, help="Of the solver; the checkpoint's own if absent.")
    add_sampler(add, "euler")


def add_shards(add: Any, default: str = "test") -> None:
    """Add prepared windows, and which of them are taken."""
    add("shards", metavar="SHARDS", help="What `prepare` left.")
    add("--split", choices=SPLITS, default=default, help="Which windows.")


def add_files(add: Any) -> None:
    """Add how files are read."""
    add("--unit", default="", help="Of lengths, where a file does not tell: m, nm, angstrom, ...")
    add(
        "--unwrap",
        action="store_true",
        help="Follow nodes across the faces of a periodic box; without it such files are refused.",
    )
