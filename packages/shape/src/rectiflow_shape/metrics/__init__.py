"""Measures of shapes and of sets of shapes, as pure functions on tensors."""

from rectiflow_shape.metrics.distances import (
    chamfer,
    chamfer_l1,
    emd,
    f_score,
    iou,
    nearest,
    normal_consistency,
)
from rectiflow_shape.metrics.sets import cov, mmd, one_nna, pairwise

__all__ = [
    "chamfer",
    "chamfer_l1",
    "cov",
    "emd",
    "f_score",
    "iou",
    "mmd",
    "nearest",
    "normal_consistency",
    "one_nna",
    "pairwise",
]
