"""Headers that lie: all of the sound is read, or the file is refused, and never a part of it."""

from __future__ import annotations

import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rectiflow_audio.io import (
    AudioFileError,
    AudioWriter,
    depth_like,
    read_audio,
    sound_info,
    stream_blocks,
    write_audio,
)

RATE = 16_000
SAMPLES = 8000


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, (1, SAMPLES)).astype(np.float32)


def saved(path: Path, samples: np.ndarray, rate: int = RATE, **how: str) -> Path:
    soundfile.write(path, samples.T, rate, **how)
    return path


def with_size(path: Path, size: int, form: int | None = None) -> Path:
    """Change what the header tells of the samples, and of the whole."""
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    if form is not None:
        data[4:8] = struct.pack("<I", form)
    path.write_bytes(data)
    return path


def read_in_every_way(path: Path) -> int:
    """Read whole, in pieces, and by the header; all must agree."""
    counts = {
        read_audio(path).samples.shape[1],
        sum(block.shape[1] for block in stream_blocks(path, seconds=0.07)),
        sound_info(path).samples,
    }
    assert len(counts) == 1
    return counts.pop()


@pytest.mark.parametrize(
    ("size", "form"),
    [
        (0, None),  # never filled in
        (0, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg into a pipe
        (0x7FFFFFFF, 0x80000023),
        (0x7FFFF000, 0x7FFFF024),  # SoX into a pipe
        (0x80000000, 0x80000024),  # arecord
    ],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_recorder_that_did_not_know_the_length_is_believed(tmp_path, noise, size, form, subtype):
    path = saved(tmp_path / "a.wav", noise, subtype=subtype)
    expected = read_audio(path).samples
    assert np.array_equal(read_audio(with_size(path, size, form)).samples, expected)
    assert read_in_every_way(path) == SAMPLES


def test_a_size_that_is_too_small_is_overruled_by_the_forms_own(tmp_path, noise):
    path = saved(tmp_path / "a.wav", noise)
    expected = read_audio(path).samples
    assert np.array_equal(read_audio(with_size(path, 4000)).samples, expected)


def test_sound_after_an_end_that_both_sizes_tell_is_warned_of(tmp_path, noise, caplog):
    path = with_size(saved(tmp_path / "a.wav", noise), 4000, 4036)
    assert read_in_every_way(path) == 2000
    assert "12000 bytes follow the end of the sound that its header tells" in caplog.text


def test_chunks_after_the_samples_are_no_sound(tmp_path, noise, caplog):
    path = saved(tmp_path / "a.wav", noise)
    path.write_bytes(path.read_bytes() + b"id3 " + struct.pack("<I", 10) + bytes(10))
    assert read_in_every_way(path) == SAMPLES
    empty = with_size(saved(tmp_path / "b.wav", noise[:, :0]), 0)
    empty.write_bytes(empty.read_bytes() + b"id3 " + struct.pack("<I", 10) + bytes(10))
    with pytest.raises(AudioFileError, match="too short"):
        read_audio(empty)
    assert not caplog.records


def test_more_than_32_bits_can_tell(tmp_path):
    """A recorder that went on past 4 GiB: both sizes begin again at 0. Sparse, so it costs none."""
    size = (1 << 32) + 4000
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        form = struct.pack("<4sI4s", b"RIFF", (size + 36) % (1 << 32), b"WAVE")
        told = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
        file.write(form + told + b"data" + struct.pack("<I", size % (1 << 32)))
        file.seek(44 + size - 1)
        file.write(b"\0")
    assert sound_info(path).samples == size // 2


@pytest.mark.parametrize("form", ["RF64", "AU", "W64", "CAF", "SVX", "WAVEX"])
def test_every_form_that_is_cut_is_refused(tmp_path, noise, form):
    path = saved(tmp_path / "a.snd", noise, format=form, subtype="PCM_16")
    assert read_in_every_way(path) == SAMPLES
    path.write_bytes(path.read_bytes()[: SAMPLES + 100])
    with pytest.raises(AudioFileError, match=r"breaks off|cannot be read"):
        read_audio(path)


def test_what_cannot_be_wound_is_read(tmp_path, noise):
    gsm = saved(tmp_path / "a.wav", noise, 8000, subtype="GSM610")
    assert SAMPLES <= read_in_every_way(gsm) <= SAMPLES + 320
    flac = saved(tmp_path / "a.flac", noise)
    data = bytearray(flac.read_bytes())
    data[21] &= 0xF0  # the number of samples: 0, as from a pipe
    data[22:26] = bytes(4)
    flac.write_bytes(data)
    assert read_in_every_way(flac) == SAMPLES


def bare_mp3(path: Path, samples: np.ndarray, mode: str) -> tuple[bytes, bytes]:
    """Write an MP3 and return its first frame, which tells the number of frames, and the rest."""
    with soundfile.SoundFile(
        path, "w", 44_100, 1, compression_level=0.5, bitrate_mode=mode, format="MP3"
    ) as file:
        file.write(samples.T)
    data = path.read_bytes()
    at = data.index(b"Xing") if b"Xing" in data else data.index(b"Info")
    [frames] = struct.unpack(">I", data[at + 8 : at + 12])
    rest = data.index(data[:2], at)
    assert frames > 10
    return data[:rest], data[rest:]


@pytest.fixture(params=["CONSTANT", "VARIABLE"])
def mp3(request, tmp_path) -> tuple[Path, bytes, bytes]:
    """Silence, then noise: the first frame tells nothing of the others."""
    random = np.random.default_rng(0)
    parts = [np.zeros((1, 22_050)), random.normal(0, 0.3, (1, 44_100)), np.zeros((1, 22_050))]
    path = tmp_path / "a.mp3"
    tag, rest = bare_mp3(path, np.concatenate(parts, 1), request.param)
    return path, tag, rest


def frames_of(path: Path) -> float:
    return read_in_every_way(path) / 1152


def test_mp3_is_read_whole_without_a_count_of_its_frames(mp3):
    path, _, rest = mp3
    whole = read_in_every_way(path)
    path.write_bytes(rest)
    frames = frames_of(path)
    assert frames == int(frames)
    assert whole <= 1152 * frames <= whole + 3 * 1152
    title = b"Info about rain, and Xing"
    head = b"ID3\3\0\0" + struct.pack(">I", len(title)) + title
    path.write_bytes(head + rest)
    assert frames_of(path) == frames
    path.write_bytes(head + head + rest + b"TAG".ljust(128, b"x"))
    assert frames_of(path) == frames


def test_mp3_that_was_cut_is_refused_whatever_stands_before_it(mp3):
    path, tag, rest = mp3
    picture = bytes(200_000)
    size = bytes(len(picture) >> shift & 0x7F for shift in (21, 14, 7, 0))
    for head in (b"", b"ID3\3\0\0" + size + picture):
        path.write_bytes(head + tag + rest)
        read_in_every_way(path)
        path.write_bytes(head + tag + rest[: len(rest) // 2])
        with pytest.raises(AudioFileError, match=r"breaks off .* frames, of which \d+ are there"):
            read_audio(path)


def test_two_mp3_in_one_file_are_read_to_the_end(mp3, caplog):
    path, tag, rest = mp3
    path.write_bytes(rest)
    one = frames_of(path)
    path.write_bytes(2 * (tag + rest))
    assert 2 * one <= frames_of(path) <= 2 * one + 1
    assert "follow the end that it tells" in caplog.text


def test_a_bare_mp3_decodes_as_the_decoder_alone_does(mp3):
    path, _, rest = mp3
    path.write_bytes(rest)
    alone, _ = soundfile.read(path, dtype="float32", frames=20_000)
    assert np.array_equal(read_audio(path).samples[0, :20_000], alone)


def test_names_and_places_that_are_odd(tmp_path, noise):
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write_audio(latin, noise, RATE)
    assert read_in_every_way(latin) == SAMPLES
    write_audio(tmp_path / ("x" * 251 + ".wav"), noise, RATE)  # 255 bytes
    for use in (read_audio, lambda path: write_audio(path, noise, RATE)):
        with pytest.raises(AudioFileError, match="name"):
            use(tmp_path / ("x" * 300 + ".wav"))
    with pytest.raises(AudioFileError, match="cannot be opened"):
        read_audio(tmp_path / "a\0b.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioFileError, match="it is no file"):
        read_audio(tmp_path / "pipe.wav")


def test_more_samples_than_allowed_and_rates_that_are_none(tmp_path, noise):
    path = saved(tmp_path / "a.flac", noise)
    with pytest.raises(AudioFileError, match=r"more than 7999 samples; .*stream_blocks"):
        read_audio(path, largest=SAMPLES - 1)
    slow = saved(tmp_path / "slow.wav", noise, 7)
    with pytest.raises(AudioFileError, match="its sample rate is 7 Hz; expected 1000 to 4000000"):
        read_audio(slow)


@pytest.mark.parametrize(
    ("subtype", "wav", "flac"),
    [
        ("PCM_U8", "PCM_16", "PCM_16"),
        ("PCM_16", "PCM_16", "PCM_16"),
        ("PCM_24", "PCM_24", "PCM_24"),
        ("PCM_32", "PCM_32", "PCM_24"),
        ("DOUBLE", "FLOAT", "PCM_24"),
        ("GSM610", "PCM_16", "PCM_16"),
        ("VORBIS", "FLOAT", "PCM_24"),
    ],
)
def test_the_depth_of_a_part_is_that_of_the_recording(tmp_path, noise, subtype, wav, flac):
    for suffix, expected in ((".wav", wav), (".flac", flac)):
        path = tmp_path / f"a{suffix}"
        assert depth_like(subtype, path) == expected
        write_audio(path, noise, RATE, subtype=expected)
        assert soundfile.info(path).subtype == expected
    assert depth_like(subtype, "a.ogg") is None


def test_whole_numbers_and_channels_last_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"got int16; expected full scale ±1\. Divide .* 32768"):
        write_audio(tmp_path / "a.wav", np.zeros(4000, np.int16), RATE)
    with pytest.raises(ValueError, match=r"got \(4000, 2\); expected \(channels, n\).* samples\.T"):
        write_audio(tmp_path / "a.wav", np.zeros((4000, 2)), RATE)
    assert not list(tmp_path.iterdir())


def test_a_long_sound_is_written_as_ogg_in_one_call(tmp_path):
    """The Vorbis encoder keeps what it is given on its stack."""
    write_audio(tmp_path / "a.ogg", np.zeros((2, 3_000_000), np.float32), 48_000)
    assert sound_info(tmp_path / "a.ogg").samples == 3_000_000


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, noise):
    """A limit on the size of files stands for the end of the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        for name in ("a.wav", "a.flac", "a.ogg"):
            message = "it could not be written whole; expected room on the disk"
            with pytest.raises(AudioFileError, match=message):
                write_audio(tmp_path / name, noise.repeat(40, 1), RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_writer_keeps_no_trace_of_what_failed(tmp_path, noise):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises((FileExistsError, NotADirectoryError)):
        AudioWriter(tmp_path / "taken" / "a.wav", RATE)
    with pytest.raises(AudioFileError, match="MP3 cannot hold 6 channels"):
        write_audio(tmp_path / "a.mp3", noise.repeat(6, 0), RATE)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
