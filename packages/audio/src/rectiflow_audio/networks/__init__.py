"""The networks of FlowSep, by the official architectures."""

from rectiflow_audio.networks.unet import SeparationUNet, UNetConfig
from rectiflow_audio.networks.vae import Posterior, SpectrogramVae, VaeConfig

__all__ = ["Posterior", "SeparationUNet", "SpectrogramVae", "UNetConfig", "VaeConfig"]
