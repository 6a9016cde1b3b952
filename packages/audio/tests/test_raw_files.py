"""Each awkward file of the shared folder: a clear error, or the behaviour that is documented."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_audio.frontend import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    LogMel,
    normalise,
    read_official,
    resample,
)
from rectiflow_audio.io import AudioFileError, read_audio, stream_blocks

REFUSED = {
    "tabla_20ms.wav": r"it is too short, 0\.020 s \(320 samples\); expected at least 0\.1 s",
    "rooster_truncated.wav": "it breaks off .*, the file ends at byte 64057; .*160076 byte",
    "corrupt_header.wav": r"it cannot be read \(.*fmt.*\); expected a sound file",
}


@pytest.fixture(scope="module")
def raw(shared_data: Path) -> Path:
    """Return the folder."""
    return shared_data / "audio" / "raw"


@pytest.fixture(scope="module")
def table(raw: Path) -> dict[str, dict[str, str]]:
    """Return what is known of each file."""
    with (raw / "raw.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def log_mel_of(path: Path) -> torch.Tensor:
    """Take a file to the network's input: mono, 16 kHz, normalised."""
    audio = read_audio(path)
    wave = resample(torch.from_numpy(audio.mono()), audio.sample_rate, SAMPLE_RATE)
    return LogMel()(normalise(wave)[0])


def test_every_file_is_refused_by_name_or_read_whole(raw, table):
    assert set(REFUSED) < set(table)
    for name, row in table.items():
        if name in REFUSED:
            with pytest.raises(AudioFileError, match=rf"{name}: {REFUSED[name]}"):
                read_audio(raw / name)
            with pytest.raises(AudioFileError, match=rf"{name}: {REFUSED[name]}"):
                list(stream_blocks(raw / name))
            continue
        audio = read_audio(raw / name)
        facts = (audio.sample_rate, audio.channels, audio.samples.shape[1])
        assert facts == tuple(int(row[k]) for k in ("sample_rate", "channels", "frames")), name
        assert torch.isfinite(log_mel_of(raw / name)).all()


def test_every_readable_file_streams_to_16_khz_as_the_whole_does(raw, table):
    for name in set(table) - set(REFUSED):
        audio = read_audio(raw / name)
        whole = resample(torch.from_numpy(audio.samples), audio.sample_rate, SAMPLE_RATE)
        blocks = list(stream_blocks(raw / name, sample_rate=SAMPLE_RATE, seconds=0.7))
        pieces = torch.from_numpy(np.concatenate(blocks, 1))
        torch.testing.assert_close(pieces, whole, atol=3e-6, rtol=0, msg=name)


def test_stereo_is_mixed_by_the_mean(raw):
    audio = read_audio(raw / "stereo_44k.wav")
    left, right = audio.samples
    assert not np.allclose(left, right)
    np.testing.assert_allclose(audio.mono(), (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(audio.mono("first"), left)


def test_8_bit_sound_has_no_offset(raw):
    samples = read_audio(raw / "speech_8bit_8k.wav").samples
    assert abs(float(samples.mean())) < 0.01
    assert 0.0 in samples


def test_upsampled_speech_has_nothing_above_its_old_band(raw):
    mel = log_mel_of(raw / "speech_8bit_8k.wav").exp().mean(0)
    assert mel[-8:].max() < 1e-2 * mel[:40].max()  # the last eight bands stand above 5.4 kHz


def test_floats_over_unity_are_brought_to_half_without_clipping(raw, caplog):
    audio = read_audio(raw / "dog_float_over_unity_dc.wav")
    assert np.abs(audio.samples).max() > 2.5
    wave = torch.from_numpy(audio.mono())
    flat, level = normalise(wave)
    assert flat.abs().max() == pytest.approx(0.5, abs=1e-6)
    assert abs(float(flat.mean())) < 1e-6
    assert float(level.mean) == pytest.approx(0.2, abs=0.05)
    torch.testing.assert_close(level.restore(flat, offset=True), wave, atol=1e-6, rtol=1e-6)
    assert "clipped" not in caplog.text


def test_silence_is_the_floor_everywhere(raw):
    mel = log_mel_of(raw / "silent_3s.wav")
    torch.testing.assert_close(mel, torch.full_like(mel, float(np.log(1e-5))))


def test_a_clipped_recording_is_read_with_a_warning(raw, caplog):
    read_audio(raw / "baby_clipped.wav")
    assert "baby_clipped.wav" in caplog.text
    assert "the recording is clipped" in caplog.text


def test_recordings_that_are_not_clipped_bring_no_warning(raw, table, caplog):
    for name in set(table) - set(REFUSED) - {"baby_clipped.wav"}:
        read_audio(raw / name)
    assert not caplog.records


def test_the_official_reading_takes_what_ours_refuses_for_shortness(raw):
    wave = read_official(raw / "tabla_20ms.wav")
    assert wave.shape == (WINDOW_SAMPLES,)
    assert wave[:320].abs().max() == pytest.approx(0.5, abs=1e-6)
    assert not wave[320:].any()
    assert LogMel()(wave).shape == (1025, 64)
