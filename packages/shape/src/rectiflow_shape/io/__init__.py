"""Mesh files in and out, pictures, normal maps and scans in."""

from rectiflow_shape.io.errors import ImageFileError, MeshFileError
from rectiflow_shape.io.image import Photo, official_rule, pixels, read_image
from rectiflow_shape.io.normals import NormalMaps, read_normals
from rectiflow_shape.io.read import SUFFIXES, read_mesh
from rectiflow_shape.io.scan import read_scan
from rectiflow_shape.io.write import write_mesh

__all__ = [
    "SUFFIXES",
    "ImageFileError",
    "MeshFileError",
    "NormalMaps",
    "Photo",
    "official_rule",
    "pixels",
    "read_image",
    "read_mesh",
    "read_normals",
    "read_scan",
    "write_mesh",
]
