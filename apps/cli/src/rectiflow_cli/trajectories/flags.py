"""Flags that several commands of trajectories share."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser, add_sampler, positive
from rectiflow.costs import Load
from rectiflow.storage.splits import SPLITS

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline


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


def loads_of(
    args: argparse.Namespace, pipe: TrajectoryPipeline, nodes: Iterable[int], num: int
) -> list[Load]:
    """Return the batches that so many samples of graphs of some nodes come to."""
    from rectiflow_trajectories.pipeline import ROWS

    solver = args.solver.nfe * (args.steps or pipe.settings.steps)
    calls = pipe.settings.diffusion if getattr(args, "ancestral", False) else solver
    return [
        Load(min(ROWS, num - start), count, calls)
        for count in nodes
        for start in range(0, num, ROWS)
    ]


def add_files(add: Any) -> None:
    """Add how files are read."""
    add("--unit", default="", help="Of lengths, where a file does not tell: m, nm, angstrom, ...")
    add(
        "--unwrap",
        action="store_true",
        help="Follow nodes across the faces of a periodic box; without it such files are refused.",
    )
