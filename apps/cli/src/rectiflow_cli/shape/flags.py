"""Flags that several shape commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rectiflow.commands import positive


class Shape:
    """What every verb of this domain is."""

    domain, pipeline = "shape", "rectiflow_shape.pipeline:ShapePipeline"


def add_up(add: Callable[..., Any]) -> None:
    """Add ``--up`` of files that are read."""
    add(
        "--up",
        choices=("x", "y", "z"),
        help="Which axis of the files is up, turned to y; if absent y, which GLB has by its "
        "standard and other formats do not say.",
    )


def add_budget(add: Callable[..., Any]) -> None:
    """Add ``--faces``."""
    add("--faces", type=positive, metavar="N", help="Most faces that a mesh should have.")
