"""``--method``: ways to solve an inverse problem, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rectiflow.inverse import Method

MASKED = ("flowchef", "projected", "posterior", "red-diff", "replaced", "cyclic")
"""Those that fit a mask of readings without noise."""

LINEAR = ("posterior", "projected", "flowchef", "red-diff")
"""Those that fit linear readings with noise."""


def add_method(add: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Add the flag; the first name is the default."""
    add(
        "--method",
        choices=names,
        default=names[0],
        help="How what is known leads the rest; rectiflow.inverse has them.",
    )


def make_method(name: str) -> Method:
    """Return the method of that name."""
    from rectiflow import inverse

    made = {
        "flowchef": inverse.FlowChef,
        "projected": inverse.Projected,
        "posterior": inverse.Posterior,
        "red-diff": inverse.RedDiff,
        "replaced": inverse.Replaced,
        "cyclic": inverse.Cyclic,
    }
    return made[name]()
