"""Damaged sound files of every family: read, or refused by the one documented error."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rectiflow_audio.io import AudioFileError, read_audio, sound_info, stream_blocks

FAMILIES = (
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "GSM610"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("rf64", "RF64", "PCM_16"),
    ("flac", "FLAC", "PCM_16"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("voc", "VOC", "PCM_16"),
    ("iff", "SVX", "PCM_16"),
)
SIZES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def mutated(data: bytearray, draws: random.Random) -> bytes:
    """Change bytes and sizes, remove, insert and repeat parts, mostly in the header; cut."""
    for _ in range(draws.choice((1, 1, 2, 4, 16))):
        reach = min(len(data), 200) if draws.random() < 0.7 else len(data)
        if reach < 8:
            break
        at = draws.randrange(reach - 4)
        match draws.randrange(6):
            case 0 | 1:
                data[at] = draws.randrange(256)
            case 2:
                data[at : at + 4] = draws.choice(SIZES)
            case 3:
                del data[at : at + draws.randrange(1, 50)]
            case 4:
                other = draws.randrange(reach)
                data[at:at] = data[other : other + draws.randrange(300)]
            case 5:
                data = data[: draws.randrange(1, len(data))]
    return bytes(data)


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_sounds_raise_what_is_documented(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "rectiflow_audio")
    noise = np.random.default_rng(0).normal(0, 0.1, 4000)
    whole = []
    for suffix, form, subtype in FAMILIES:
        rate = {"OPUS": 48_000, "GSM610": 8000}.get(subtype, 16_000)
        soundfile.write(tmp_path / "a", noise, rate, format=form, subtype=subtype)
        whole.append((suffix, (tmp_path / "a").read_bytes()))
    draws, read, told = random.Random(0), 0, []
    for _ in range(count):
        suffix, data = draws.choice(whole)
        path = tmp_path / f"b.{suffix}"
        path.write_bytes(mutated(bytearray(data), draws))
        try:
            samples = read_audio(path).samples
            assert np.isfinite(samples).all()
            more = sound_info(path).samples - samples.shape[1]  # the tag counts its own frame
            assert 0 <= more <= (1152 if suffix == "mp3" else 0)
            assert sum(block.shape[1] for block in stream_blocks(path)) == samples.shape[1]
            read += 1
        except AudioFileError as error:
            told.append(str(error))
    assert all("; expected " in text for text in told)
    assert count * 0.1 < read < count * 0.9
