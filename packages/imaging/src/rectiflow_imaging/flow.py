"""The flow of images: from normal noise, straight."""

from __future__ import annotations

from rectiflow.flow import Flow
from rectiflow.time_density import LogitNormal


def image_flow() -> Flow:
    """Return the flow that a prior of images is trained as; times about the middle are frequent."""
    return Flow(density=LogitNormal())
