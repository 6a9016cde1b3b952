"""Physics: simulation by latent flow (Text2PDE), rollouts, air quality, pressure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.trajectory import Trajectory

if TYPE_CHECKING:
    from rectiflow_pde.air import AirPipeline
    from rectiflow_pde.pipeline import SimulationPipeline
    from rectiflow_pde.result import SimulationResult
    from rectiflow_pde.rollout import RolloutPipeline

__all__ = [
    "AirPipeline",
    "Mesh",
    "NodeType",
    "RolloutPipeline",
    "SimulationPipeline",
    "SimulationResult",
    "Trajectory",
]

_LATER = {
    "AirPipeline": "air",
    "RolloutPipeline": "rollout",
    "SimulationPipeline": "pipeline",
    "SimulationResult": "result",
}
"""Imported when they are asked for: they bring the networks along."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"rectiflow_pde.{_LATER[name]}"), name)
