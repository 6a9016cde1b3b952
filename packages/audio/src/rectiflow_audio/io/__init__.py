"""Reading and writing sound files: WAV, FLAC, Ogg, MP3 and what else libsndfile reads.

Samples are float32 of shape ``(channels, samples)``, full scale ±1. Nothing is resampled, mixed
down or scaled here. A file that is not whole is refused with the place where it breaks off, since
half a recording separated without a word is worse than an error.
"""

from rectiflow_audio.io.errors import AudioFileError
from rectiflow_audio.io.read import (
    SHORTEST_SECONDS,
    SUFFIXES,
    Audio,
    SoundInfo,
    clipped_samples,
    read_audio,
    resampled_blocks,
    sound_info,
    stream_blocks,
)
from rectiflow_audio.io.write import FORMATS, AudioWriter, depth_like, write_audio

__all__ = [
    "FORMATS",
    "SHORTEST_SECONDS",
    "SUFFIXES",
    "Audio",
    "AudioFileError",
    "AudioWriter",
    "SoundInfo",
    "clipped_samples",
    "depth_like",
    "read_audio",
    "resampled_blocks",
    "sound_info",
    "stream_blocks",
    "write_audio",
]
