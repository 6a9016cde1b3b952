"""The networks of imaging."""

from rectiflow_imaging.networks.prior import ImageUNet
from rectiflow_imaging.networks.recovery import RecoveryNetwork
from rectiflow_imaging.networks.restoration import MeanFlowNetwork, ResidualNetwork

__all__ = ["ImageUNet", "MeanFlowNetwork", "RecoveryNetwork", "ResidualNetwork"]
