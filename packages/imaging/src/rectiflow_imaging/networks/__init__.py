"""The networks of imaging."""

from rectiflow_imaging.networks.recovery import RecoveryNetwork

__all__ = ["RecoveryNetwork"]
