"""Shapes by rectified flow: Mosaic-SDF and TripoSG.

Mesh files are read and written by :mod:`rectiflow_shape.io`, which needs trimesh.

References
----------
Yariv et al., "Mosaic-SDF for 3D Generative Models" (CVPR 2024); Li et al., "TripoSG:
High-Fidelity 3D Shape Synthesis using Large-Scale Rectified Flow Models" (arXiv 2502.06608).
"""

from rectiflow_shape.mosaic import FitSettings, Mosaic, MosaicField
from rectiflow_shape.networks import MosaicTransformer, TripoSGDiT, TripoSGVae
from rectiflow_shape.pipeline import ShapePipeline
from rectiflow_shape.request import Asked, Options
from rectiflow_shape.result import ShapeResult, ShapeSample
from rectiflow_shape.settings import ShapeSettings

__all__ = [
    "Asked",
    "FitSettings",
    "Mosaic",
    "MosaicField",
    "MosaicTransformer",
    "Options",
    "ShapePipeline",
    "ShapeResult",
    "ShapeSample",
    "ShapeSettings",
    "TripoSGDiT",
    "TripoSGVae",
]
