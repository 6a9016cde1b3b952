"""What the workers of ``executors.py`` do, in a module that they can import."""

from __future__ import annotations

import time
from collections.abc import Callable

ITEM_S = 1e-4
"""An item takes so long."""


def opened() -> Callable[[range], int]:
    """Return what does some items."""
    return spin


def spin(items: range) -> int:
    """Compute for as long as the items take."""
    end = time.perf_counter() + ITEM_S * len(items)
    while time.perf_counter() < end:
        pass
    return len(items)
