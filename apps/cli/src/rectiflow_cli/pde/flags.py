"""Flags that several physics commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser

if TYPE_CHECKING:
    from rectiflow_pde.io import Boundaries
    from rectiflow_pde.units import Units


class Pde:
    """What every verb of this domain is."""

    domain, pipeline = "pde", "rectiflow_pde.pipeline:SimulationPipeline"


def number(text: str) -> float:
    """Parse a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def span(text: str) -> tuple[float, float]:
    """Parse a number, or two with a comma between which to draw.

    Examples
    --------
    >>> span("100"), span("25,190")
    ((100.0, 100.0), (25.0, 190.0))
    """
    parts = [number(part) for part in text.split(",")]
    if len(parts) > 2 or parts[0] > parts[-1]:
        raise argparse.ArgumentTypeError(f"expected A or A,B with A at most B, got {text!r}")
    return parts[0], parts[-1]


def kinds(text: str) -> dict[str, Any]:
    """Parse ``5=inlet,6=outlet``."""
    from rectiflow_pde.io.boundary import NAMES

    found = {}
    for part in text.split(","):
        name, equals, kind = part.partition("=")
        if not equals or kind not in NAMES:
            raise argparse.ArgumentTypeError(
                f"expected NAME=KIND with a kind of {', '.join(NAMES)}, got {part!r}"
            )
        found[name] = NAMES[kind]
    return found


def add_units(add: Callable[..., Any]) -> None:
    """Add the flags that say what numbers of a file mean."""
    add("--viscosity", type=number, metavar="NU", help="Kinematic, in m²/s, if files do not say.")
    add("--density", type=number, metavar="RHO", help="In kg/m³: pressure is divided by it.")
    add(
        "--pressure-unit",
        choices=("Pa", "m2/s2"),
        default="Pa",
        help="With m2/s2 pressure is divided by the density already.",
    )
    add("--length-unit", choices=("m", "cm", "mm"), help="Of coordinates; metres if absent.")
    add("--time-step", type=number, metavar="DT", help="Seconds between frames without times.")


def units(args: argparse.Namespace) -> Units:
    """Return the units that the flags stand for."""
    from rectiflow_pde.units import Units

    return Units(args.viscosity, args.density, args.length_unit, args.pressure_unit, args.time_step)


def add_boundaries(add: Callable[..., Any]) -> None:
    """Add the flags that say what boundaries are."""
    add(
        "--boundaries",
        type=kinds,
        metavar="NAME=KIND,...",
        help="Kinds of boundaries by their names or numbers, such as 5=inlet,8=cylinder.",
    )
    add(
        "--infer-boundaries",
        action="store_true",
        help="Infer unnamed ones: left in, right out, inner lines obstacles, else wall.",
    )


def boundaries(args: argparse.Namespace) -> Boundaries:
    """Return what the flags say of boundaries."""
    from rectiflow_pde.io import Boundaries

    return Boundaries(args.boundaries or {}, args.infer_boundaries)


def add_frames(parser: Parser) -> None:
    """Add the flags that say when frames are."""
    add = parser.group("frames")
    add("--frames", type=int, metavar="N", help="How many; as usual for the system if absent.")
    add("--frame-step", type=number, metavar="DT", help="Time between them.")
    add("--start", type=number, metavar="T", help="Time of the first.")
