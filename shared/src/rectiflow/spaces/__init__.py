"""Where a state lives."""

from rectiflow.spaces.base import Space
from rectiflow.spaces.euclidean import Euclidean
from rectiflow.spaces.product import Product
from rectiflow.spaces.rotations import (
    Rotations,
    quat_conjugate,
    quat_multiply,
    quat_to_rotmat,
    quat_to_rotvec,
    rotation_angle,
    rotmat_to_quat,
    rotvec_to_quat,
)

__all__ = [
    "Euclidean",
    "Product",
    "Rotations",
    "Space",
    "quat_conjugate",
    "quat_multiply",
    "quat_to_rotmat",
    "quat_to_rotvec",
    "rotation_angle",
    "rotmat_to_quat",
    "rotvec_to_quat",
]
