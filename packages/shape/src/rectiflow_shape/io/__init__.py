"""Mesh files in and out, and pictures in."""

from rectiflow_shape.io.errors import ImageFileError, MeshFileError
from rectiflow_shape.io.image import Photo, official_rule, pixels, read_image
from rectiflow_shape.io.read import SUFFIXES, read_mesh
from rectiflow_shape.io.write import write_mesh

__all__ = [
    "SUFFIXES",
    "ImageFileError",
    "MeshFileError",
    "Photo",
    "official_rule",
    "pixels",
    "read_image",
    "read_mesh",
    "write_mesh",
]
