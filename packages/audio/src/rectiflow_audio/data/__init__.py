"""From sound files and captions to training batches."""

from __future__ import annotations

from rectiflow_audio.data.augment import Augment
from rectiflow_audio.data.blend import Blend
from rectiflow_audio.data.captions import Wordings, find_captions, read_captions
from rectiflow_audio.data.dataset import Clips, MixtureDataset, WaveformDataset
from rectiflow_audio.data.extract import read_clip
from rectiflow_audio.data.mixtures import Mixture, MixtureRules, mix
from rectiflow_audio.data.prepare import prepare
from rectiflow_audio.data.prepared import PreparedSounds
from rectiflow_audio.data.texts import TextTable, encode_texts

__all__ = [
    "Augment",
    "Blend",
    "Clips",
    "Mixture",
    "MixtureDataset",
    "MixtureRules",
    "PreparedSounds",
    "TextTable",
    "WaveformDataset",
    "Wordings",
    "encode_texts",
    "find_captions",
    "mix",
    "prepare",
    "read_captions",
    "read_clip",
]
