"""Flags that several shape commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rectiflow.commands import Parser, positive


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


def add_output(parser: Parser) -> None:
    """Add what is done to meshes before they are written."""
    add = parser.group("meshes")
    add_budget(add)
    add("--largest", action="store_true", help="Keep the part of the largest volume.")
    add(
        "--up-out",
        choices=("x", "y", "z"),
        default="y",
        help="Which axis is up in the file; GLB has y by its standard.",
    )
    add(
        "--size",
        type=float,
        help="Length of the longest side in the file's units, metres in GLB; as it is if absent.",
    )
