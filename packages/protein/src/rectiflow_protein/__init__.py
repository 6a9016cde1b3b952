"""ReQFlow: protein backbones by rectified quaternion flow.

Structure files are read and written by :mod:`rectiflow_protein.io`, which needs biotite; what is
imported here does not.

References
----------
Yue et al., "ReQFlow: Rectified Quaternion Flow for Efficient and High-Quality Protein Backbone
Generation" (ICML 2025, arXiv 2502.14637).
"""

from rectiflow_protein.flow import FrameEuler, backbone_flow
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.objective import BackboneObjective
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.result import BackboneResult, BackboneSample
from rectiflow_protein.weights import load_official, to_official

__all__ = [
    "BackboneLoss",
    "BackboneObjective",
    "BackbonePipeline",
    "BackboneResult",
    "BackboneSample",
    "FrameEuler",
    "ReQFlowConfig",
    "ReQFlowNetwork",
    "backbone_flow",
    "load_official",
    "to_official",
]
