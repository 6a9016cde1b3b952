"""The networks of FlowSep, by the official architectures."""

from rectiflow_audio.networks.patches import PatchCodec
from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.networks.vae import Posterior, SpectrogramVae, VaeConfig
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig

__all__ = [
    "BigVgan",
    "PatchCodec",
    "Posterior",
    "SeparationUNet",
    "SpectrogramVae",
    "UNetConfig",
    "VaeConfig",
    "VocoderConfig",
]
