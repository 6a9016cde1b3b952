"""The authors' checkpoints, read and written.

A full checkpoint is a Lightning file whose ``state_dict`` holds the UNet twice, as trained and
averaged, the autoencoder with the vocoder inside it, the text encoder, and leftovers of training.
The averaged UNet is the one that the authors sample with; it is stored under names without dots.
"""

from rectiflow_audio.weights.checkpoint import (
    OfficialFlowSep,
    load_official,
    save_official,
    to_official,
)
from rectiflow_audio.weights.unet import (
    unet_from_official,
    unet_to_official,
    without_unused_outputs,
)
from rectiflow_audio.weights.vae import load_official_vae, vae_from_official, vae_to_official
from rectiflow_audio.weights.vocoder import load_official_vocoder, read_vocoder_config

__all__ = [
    "OfficialFlowSep",
    "load_official",
    "load_official_vae",
    "load_official_vocoder",
    "read_vocoder_config",
    "save_official",
    "to_official",
    "unet_from_official",
    "unet_to_official",
    "vae_from_official",
    "vae_to_official",
    "without_unused_outputs",
]
