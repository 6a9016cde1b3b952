"""Editing: shared features, regions, and sizes beyond training."""

from rectiflow.editing.regional import RegionalNoise, edit_region, regional_guide, time_travel
from rectiflow.editing.tape import FeatureTape
from rectiflow.editing.tiled import Smoothed, Tiling, blended, dilated, enlarge, tiled

__all__ = [
    "FeatureTape",
    "RegionalNoise",
    "Smoothed",
    "Tiling",
    "blended",
    "dilated",
    "edit_region",
    "enlarge",
    "regional_guide",
    "tiled",
    "time_travel",
]
