"""EGTN, its form with e3nn's tensor products, and the graphs that they work on."""

from rectiflow_trajectories.networks.egtn import EGTN, SpatialLayer, TemporalLayer, waves
from rectiflow_trajectories.networks.graph import Graph, Told
from rectiflow_trajectories.networks.tensor import TensorEGTN

__all__ = ["EGTN", "Graph", "SpatialLayer", "TemporalLayer", "TensorEGTN", "Told", "waves"]
