"""Shapes to train on: prepared from folders of meshes."""

from rectiflow_shape.data.prepare import Samples, prepare
from rectiflow_shape.data.prepared import PreparedShapes, mesh_of

__all__ = ["PreparedShapes", "Samples", "mesh_of", "prepare"]
