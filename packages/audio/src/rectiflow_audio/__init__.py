"""FlowSep: sound separation by text query in VAE latents.

Sound files are read and written by :mod:`rectiflow_audio.io`, which needs soundfile; what is
imported here does not.

References
----------
Yuan et al., "FlowSep: Language-Queried Sound Separation with Rectified Flow Matching" (ICASSP
2025, arXiv 2409.07614).
"""

from rectiflow_audio.candidates import Best, Mean, Medoid
from rectiflow_audio.flow import latent_flow
from rectiflow_audio.frontend import LogMel, MelConfig, normalise
from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig, VaeConfig
from rectiflow_audio.objective import SeparationObjective
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.result import Estimate, SeparationResult
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.waveform import GriffinLim, Masking, Vocoding

__all__ = [
    "Best",
    "Estimate",
    "GriffinLim",
    "LogMel",
    "Masking",
    "Mean",
    "Medoid",
    "MelConfig",
    "SeparationObjective",
    "SeparationPipeline",
    "SeparationResult",
    "SeparationSettings",
    "SeparationUNet",
    "SpectrogramVae",
    "UNetConfig",
    "VaeConfig",
    "Vocoding",
    "latent_flow",
    "normalise",
]
