"""Meshes and fields: sampling, and the surface of a field.

Meshes are numpy arrays in float64; points and fields are torch tensors.
"""

from rectiflow_shape.geometry.extract import BOX, Extraction, extract
from rectiflow_shape.geometry.mesh import HALF_EXTENT, Mesh, Placement, normalise
from rectiflow_shape.geometry.sampling import farthest_points, near_surface, surface_points

__all__ = [
    "BOX",
    "HALF_EXTENT",
    "Extraction",
    "Mesh",
    "Placement",
    "extract",
    "farthest_points",
    "near_surface",
    "normalise",
    "surface_points",
]
