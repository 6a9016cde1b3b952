"""Measures of separated sound, as pure functions on tensors, and the networks some of them need."""

from __future__ import annotations

from rectiflow_audio.metrics.clap import Clap, clap_score
from rectiflow_audio.metrics.distances import (
    log_spectral_distance,
    mel_l1,
    mel_log_spectral_distance,
    sdr,
    si_sdr,
)
from rectiflow_audio.metrics.frechet import (
    Gaussian,
    frechet_audio_distance,
    frechet_distance,
    mel_statistics,
)
from rectiflow_audio.metrics.vggish import Vggish

__all__ = [
    "Clap",
    "Gaussian",
    "Vggish",
    "clap_score",
    "frechet_audio_distance",
    "frechet_distance",
    "log_spectral_distance",
    "mel_l1",
    "mel_log_spectral_distance",
    "mel_statistics",
    "sdr",
    "si_sdr",
]
