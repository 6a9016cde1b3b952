"""The official architectures."""

from rectiflow_protein.networks.reqflow import ReQFlowConfig, ReQFlowNetwork

__all__ = ["ReQFlowConfig", "ReQFlowNetwork"]
