"""Meshes and fields: repair, signed distance, sampling, extraction, certificates.

Meshes are numpy arrays in float64; points and fields are torch tensors. A signed distance is
negative inside; what :func:`extract` takes is positive inside.
"""

from rectiflow_shape.geometry.certificate import Certificate, certificate, decimate, largest
from rectiflow_shape.geometry.distance import SURE, SignedDistance
from rectiflow_shape.geometry.extract import BOX, Extraction, extract, saturation
from rectiflow_shape.geometry.mesh import HALF_EXTENT, Mesh, Placement, normalise
from rectiflow_shape.geometry.repair import RepairReport, orient, repair
from rectiflow_shape.geometry.sampling import around, farthest_points, near_surface, surface_points
from rectiflow_shape.geometry.watertight import Conversion, watertight

__all__ = [
    "BOX",
    "HALF_EXTENT",
    "SURE",
    "Certificate",
    "Conversion",
    "Extraction",
    "Mesh",
    "Placement",
    "RepairReport",
    "SignedDistance",
    "around",
    "certificate",
    "decimate",
    "extract",
    "farthest_points",
    "largest",
    "near_surface",
    "normalise",
    "orient",
    "repair",
    "saturation",
    "surface_points",
    "watertight",
]
