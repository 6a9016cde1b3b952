"""Mosaic-SDF: a signed distance as small grids of values on the surface, blended."""

from rectiflow_shape.mosaic.field import MosaicField
from rectiflow_shape.mosaic.fit import FitSettings, Fitted, fit
from rectiflow_shape.mosaic.representation import Mosaic, read_mosaic, write_mosaic

__all__ = ["FitSettings", "Fitted", "Mosaic", "MosaicField", "fit", "read_mosaic", "write_mosaic"]
