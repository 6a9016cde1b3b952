"""EGTN, the equivariant network of trajectories, and the graphs that it works on."""

from rectiflow_trajectories.networks.egtn import EGTN, SpatialLayer, TemporalLayer, waves
from rectiflow_trajectories.networks.graph import Graph, Told

__all__ = ["EGTN", "Graph", "SpatialLayer", "TemporalLayer", "Told", "waves"]
