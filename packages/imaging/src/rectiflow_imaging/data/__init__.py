"""Images prepared for training."""

from rectiflow_imaging.data.prepare import PreparedImages, prepare

__all__ = ["PreparedImages", "prepare"]
