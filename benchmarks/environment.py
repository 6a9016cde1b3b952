"""What a benchmark says of the machine that it ran on."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

from rectiflow.machine import describe_machine


def environment() -> dict[str, Any]:
    """Describe versions, processor, GPUs, threads and load, with the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": os.getloadavg()[0],
        **describe_machine(),
    }
