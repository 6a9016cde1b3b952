"""Sound files: what is read is what was written, and what cannot be read says why."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rectiflow_audio.frontend import resample
from rectiflow_audio.io import (
    Audio,
    AudioFileError,
    AudioWriter,
    SoundInfo,
    clipped_samples,
    read_audio,
    sound_info,
    stream_blocks,
    write_audio,
)

RATE = 16_000


def tone(seconds: float = 0.5, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Sines of different pitch and level in each channel, (channels, n)."""
    time = np.arange(round(seconds * rate)) / rate
    rows = [0.4 / (c + 1) * np.sin(2 * np.pi * 220 * (c + 1) * time) for c in range(channels)]
    return np.stack(rows).astype(np.float32)


def saved(path: Path, samples: np.ndarray, rate: int = RATE, **how: str) -> Path:
    """Write a file with libsndfile itself."""
    soundfile.write(path, samples.T, rate, **how)
    return path


def cut(path: Path, keep: float) -> Path:
    """Throw away the end of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


@pytest.mark.parametrize(
    ("subtype", "step"),
    [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 1e-7), ("FLOAT", 1e-9)],
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_wav_of_every_depth_is_read_to_its_last_bit(tmp_path, subtype, step, channels):
    samples = tone(channels=channels, rate=22_050)
    audio = read_audio(saved(tmp_path / "a.wav", samples, 22_050, subtype=subtype))
    assert (audio.sample_rate, audio.channels) == (22_050, channels)
    assert audio.samples.dtype == np.float32
    assert np.abs(audio.samples - samples).max() <= step


@pytest.mark.parametrize(
    ("suffix", "rate", "error"),
    [("flac", 48_000, 2**-15), ("ogg", 44_100, 0.02), ("mp3", 44_100, 0.02), ("aiff", 8_000, 1e-4)],
)
def test_other_formats_hold_the_same_sound(tmp_path, suffix, rate, error):
    samples = tone(1.0, rate, channels=2)
    audio = read_audio(saved(tmp_path / f"a.{suffix}", samples, rate))
    assert (audio.sample_rate, audio.channels) == (rate, 2)
    middle = slice(rate // 4, rate // 2)
    assert np.abs(audio.samples[:, middle] - samples[:, middle]).max() < error


def test_the_header_is_read_alone_and_refused_alike(tmp_path):
    path = saved(tmp_path / "a.wav", tone(0.5, 22_050, channels=2), 22_050, subtype="FLOAT")
    assert sound_info(path) == SoundInfo(11_025, 22_050, 2, "FLOAT")
    assert sound_info(path).seconds == 0.5
    with pytest.raises(AudioFileError, match="breaks off"):
        sound_info(cut(path, 0.5))
    with pytest.raises(AudioFileError, match="no such file"):
        sound_info(tmp_path / "b.wav")


def test_silence_of_8_bits_is_zero_not_minus_one(tmp_path):
    audio = read_audio(saved(tmp_path / "a.wav", np.zeros((1, 4000)), subtype="PCM_U8"))
    assert not audio.samples.any()


def test_a_file_is_known_by_its_content_not_by_its_suffix(tmp_path):
    saved(tmp_path / "a.flac", tone()).rename(tmp_path / "a.wav")
    assert read_audio(tmp_path / "a.wav").seconds == 0.5


def test_mono_is_the_mean_or_the_first_channel():
    audio = Audio(np.array([[1.0, 2.0], [3.0, 0.0]], dtype=np.float32), RATE)
    assert audio.mono().tolist() == [2.0, 1.0]
    assert audio.mono("first").tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="got 'left'; expected 'mean' or 'first'"):
        audio.mono("left")


def test_missing_empty_and_folder(tmp_path):
    with pytest.raises(AudioFileError, match=r"no\.wav: there is no such file; expected a sound"):
        read_audio(tmp_path / "no.wav")
    with pytest.raises(AudioFileError, match="it is a folder; expected a sound file"):
        read_audio(tmp_path)
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioFileError, match=r"empty\.wav: it is empty"):
        read_audio(tmp_path / "empty.wav")


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.raw", "text"])
def test_what_is_no_sound_is_refused(tmp_path, name):
    (tmp_path / name).write_text("Dear diary, today I recorded nothing at all.\n" * 40)
    with pytest.raises(AudioFileError, match=r"text.*it cannot be read \(.+\); expected a sound"):
        read_audio(tmp_path / name)


def test_a_corrupt_header_is_named(tmp_path):
    path = saved(tmp_path / "a.wav", tone())
    data = bytearray(path.read_bytes())
    data[22:24] = b"\0\0"  # channels
    path.write_bytes(data)
    with pytest.raises(AudioFileError, match=r"a\.wav: it cannot be read \(Channel.*convert it"):
        read_audio(path)


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("keep", [0.35, 0.8])
def test_a_truncated_file_is_named_with_its_last_byte(tmp_path, suffix, keep):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 3 * RATE))
    path = cut(saved(tmp_path / f"a.{suffix}", noise), keep)
    expected = rf"a\.{suffix}: it breaks off .* ends at byte {path.stat().st_size}; .*Copy it again"
    with pytest.raises(AudioFileError, match=expected):
        read_audio(path)
    with pytest.raises(AudioFileError, match=expected):
        list(stream_blocks(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_with_their_place(tmp_path, bad):
    samples = tone(1.0, channels=2)
    samples[1, 4000:4003] = bad
    path = saved(tmp_path / "a.wav", samples, subtype="FLOAT")
    expected = r"3 samples that are NaN or infinite, the first at 0\.250 s \(sample 4000\)"
    with pytest.raises(AudioFileError, match=expected):
        read_audio(path)
    with pytest.raises(AudioFileError, match=expected):
        list(stream_blocks(path, seconds=0.1))


def test_too_short_is_refused_unless_told(tmp_path):
    path = saved(tmp_path / "a.wav", tone(0.09))
    with pytest.raises(AudioFileError, match=r"too short, 0\.090 s \(1440 samples\); expected at"):
        read_audio(path)
    with pytest.raises(AudioFileError, match="too short"):
        next(stream_blocks(path))
    assert read_audio(path, shortest=0.05).samples.shape == (1, 1440)
    assert read_audio(saved(tmp_path / "b.wav", tone(0.1))).seconds == 0.1
    with pytest.raises(AudioFileError, match=r"0 samples"):
        read_audio(saved(tmp_path / "c.wav", tone(0.0)), shortest=0)


def test_clipping_is_warned_of_and_loud_sound_is_not(tmp_path, caplog):
    hard = (tone(1.0) * 5).clip(-1, 1)
    read_audio(saved(tmp_path / "hard.wav", hard, subtype="PCM_16"))
    assert "hard.wav" in caplog.text
    assert "clipped" in caplog.text
    caplog.clear()
    peak = tone(1.0) / 0.4
    read_audio(saved(tmp_path / "peak.wav", peak, subtype="PCM_16"))
    read_audio(saved(tmp_path / "over.wav", 3 * peak, subtype="FLOAT"))
    assert not caplog.records


def test_clipped_samples_are_counted_by_channel():
    samples = np.zeros((2, 20), dtype=np.float32)
    samples[0, 3:7] = 1  # a run of four
    samples[0, 18:] = 1  # two at the end
    samples[1, :3] = -1  # a run of three at the start of the other channel
    assert clipped_samples(samples) == 7
    assert clipped_samples(np.zeros((1, 0), dtype=np.float32)) == 0
    assert clipped_samples(0.5 * np.ones((1, 100), dtype=np.float32)) == 0


def test_written_files_are_read_back(tmp_path):
    samples = tone(0.5, channels=2)
    for name, error in (("a.wav", 2**-15), ("deep/b.flac", 2**-15), ("c.ogg", 0.05)):
        write_audio(tmp_path / name, torch.from_numpy(samples), RATE)
        audio = read_audio(tmp_path / name)
        assert audio.samples.shape == samples.shape
        assert np.abs(audio.samples - samples).max() < error
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    write_audio(tmp_path / "d.wav", samples[0], RATE, subtype="PCM_24")
    assert soundfile.info(tmp_path / "d.wav").subtype == "PCM_24"
    write_audio(tmp_path / "e.mp3", samples, RATE)
    assert read_audio(tmp_path / "e.mp3").seconds == pytest.approx(0.5, abs=0.1)


def test_wav_beyond_full_scale_becomes_float_and_flac_is_clipped_with_a_warning(tmp_path, caplog):
    loud = 3 * tone()
    write_audio(tmp_path / "a.wav", loud, RATE)
    assert np.array_equal(read_audio(tmp_path / "a.wav").samples, loud)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        write_audio(tmp_path / "a.flac", loud, RATE)
    assert "passed full scale and were clipped" in caplog.text
    assert np.abs(read_audio(tmp_path / "a.flac").samples - loud.clip(-1, 1)).max() < 2**-14


def test_pieces_make_the_same_file(tmp_path):
    samples = tone(1.0, channels=2)
    with AudioWriter(tmp_path / "a.wav", RATE, 2) as writer:
        for start in range(0, RATE, 999):
            writer.write(samples[:, start : start + 999])
        assert not (tmp_path / "a.wav").exists()
    write_audio(tmp_path / "b.wav", samples, RATE)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_failure_leaves_what_was_there(tmp_path):
    write_audio(tmp_path / "a.wav", tone(), RATE)
    before = (tmp_path / "a.wav").read_bytes()
    with pytest.raises(ValueError, match="samples must be finite, got NaN"):
        write_audio(tmp_path / "a.wav", np.full(4000, np.nan), RATE)
    with (
        pytest.raises(ValueError, match=r"wrong shape, got \(3, 10\); expected \(2, n\)"),
        AudioWriter(tmp_path / "a.wav", RATE, 2) as writer,
    ):
        writer.write(np.zeros((3, 10)))
    assert (tmp_path / "a.wav").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]


def test_formats_that_cannot_be_written_are_named(tmp_path):
    with pytest.raises(AudioFileError, match=r"'\.xyz'; expected one of \.wav, \.flac, \.ogg"):
        write_audio(tmp_path / "a.xyz", tone(), RATE)
    with pytest.raises(AudioFileError, match="FLAC cannot hold 1 channels of FLOAT at 16000 Hz"):
        write_audio(tmp_path / "a.flac", tone(), RATE, subtype="FLOAT")
    with pytest.raises(AudioFileError, match="MP3 cannot hold 6 channels"):
        write_audio(tmp_path / "a.mp3", tone(channels=6), RATE)
    assert not list(tmp_path.iterdir())


def test_the_error_can_be_sent_between_processes_and_put_in_a_table():
    error = AudioFileError("a.wav", "it is empty", "a sound file", "Copy it again.")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path) == (str(error), Path("a.wav"))
    assert again.reason == "it is empty; expected a sound file"


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_streaming_gives_the_samples_of_the_whole(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", tone(1.3, 44_100, channels=2), 44_100)
    blocks = list(stream_blocks(path, seconds=0.25))
    assert [b.shape[1] for b in blocks[:5]] == [11_025] * 5
    assert np.array_equal(np.concatenate(blocks, 1), read_audio(path).samples)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 22_051])
@pytest.mark.parametrize("seconds", [0.003, 0.11, 5.0])
def test_streaming_resamples_as_if_in_one_piece(tmp_path, rate, seconds):
    noise = np.random.default_rng(0).normal(0, 0.1, (2, round(0.6 * rate)))
    path = saved(tmp_path / "a.wav", noise, rate, subtype="FLOAT")
    whole = resample(torch.from_numpy(read_audio(path).samples), rate, RATE)
    blocks = list(stream_blocks(path, sample_rate=RATE, seconds=seconds))
    pieces = torch.from_numpy(np.concatenate(blocks, 1))
    assert pieces.shape == whole.shape
    torch.testing.assert_close(pieces, whole, atol=2e-6, rtol=0)
