"""The networks of imaging."""

from rectiflow_imaging.networks.prior import ImageUNet
from rectiflow_imaging.networks.recovery import RecoveryNetwork

__all__ = ["ImageUNet", "RecoveryNetwork"]
