"""Sound files read whole or piece by piece, in their own rate and channels."""

from __future__ import annotations

import logging
import math
import os
import re
import stat
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from rectiflow_audio.io import mpeg, ogg, riff
from rectiflow_audio.io.errors import AudioFileError
from rectiflow_audio.io.headers import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rectiflow_audio.io.decoder import Decoder

_LOG = logging.getLogger(__name__)

# fmt: off
SUFFIXES = frozenset({
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif",
    ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".iff", ".8svx",
    ".m4a", ".aac", ".mp4", ".m4b", ".wma", ".amr", ".webm", ".mka", ".ac3", ".ape", ".wv",
    ".dsf",
})
# fmt: on
"""What files of sound end in. Those of AAC and the like cannot be read: they are refused by name,
rather than passed over."""

SHORTEST_SECONDS = 0.1
"""Shorter sounds are refused: they fill hardly ten frames of a spectrogram."""

LARGEST = 1 << 30
"""Samples of all channels that are read at once, 4 GiB: 3.4 hours of stereo at 44.1 kHz."""

_RATES = (1000, 4_000_000)  # Hz; with others a small file would become an endless sound
_NEAR_FULL_SCALE = 0.99  # 8-bit sound cannot come nearer to +1 than 127 / 128
_CLIPPED_RUN = 3  # samples in a row at the peak: no sound does that by itself
_BLOCK_SECONDS = 10.0
_LARGEST_BLOCK = 1 << 22  # samples of all channels
_UNKNOWN_LENGTH = 1 << 62  # from here on, a number of samples says that nobody counted them
_MP3_FRAME = 1152  # samples
_INSPECTORS: tuple[Callable[[BinaryIO, int], Finding | None], ...] = (
    riff.inspect,
    ogg.inspect,
    mpeg.inspect,
)
_CUT = re.compile(r"(\d+) \(should be (\d+)\)")  # libsndfile's remark on a size it cannot believe
_PADDING = 8  # bytes by which sizes may differ for reasons of their own


@dataclass(frozen=True, eq=False)
class Audio:
    """A sound.

    Attributes
    ----------
    samples : ndarray, shape (channels, n), float32
        Full scale is ±1; files of floats may pass it.
    sample_rate : int
        Hz.
    path : Path, optional
        Where it came from.
    """

    samples: np.ndarray
    sample_rate: int
    path: Path | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.samples.shape[0]

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples.shape[1] / self.sample_rate

    def mono(self, how: Literal["mean", "first"] = "mean") -> np.ndarray:
        """Return one channel, shape (n,): the mean of all, or the first as the authors do."""
        if how not in ("mean", "first"):
            raise ValueError(
                f"how to mix down is unknown, got {how!r}; expected 'mean' or 'first'."
            )
        return self.samples.mean(0) if how == "mean" else self.samples[0]


@dataclass(frozen=True)
class SoundInfo:
    """What the header of a sound file tells.

    Attributes
    ----------
    samples : int
        Length of each channel.
    sample_rate : int
        Hz.
    channels : int
        Number of channels.
    subtype : str
        Depth, as libsndfile names it ("PCM_16", "FLOAT", "VORBIS").
    """

    samples: int
    sample_rate: int
    channels: int
    subtype: str

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.samples / self.sample_rate


def sound_info(path: str | Path) -> SoundInfo:
    """Read the header of a sound file; that of a damaged MP3 may count a frame too many.

    Raises
    ------
    AudioFileError
        If there is no such file, it is no sound, or it visibly breaks off.
    """
    path = Path(path)
    with _opened(path) as file:
        samples = file.frames
        if samples >= _UNKNOWN_LENGTH:  # FLAC from a pipe
            samples = sum(block.shape[1] for block in _native_blocks(file, path, _BLOCK_SECONDS))
        return SoundInfo(samples, file.samplerate, file.channels, file.subtype)


def read_audio(
    path: str | Path, *, shortest: float = SHORTEST_SECONDS, largest: int = LARGEST
) -> Audio:
    """Read a sound file of any rate, depth and number of channels.

    Clipped recordings are read with a warning in the log.

    Parameters
    ----------
    path : str or Path
        WAV, FLAC, Ogg, MP3 or whatever else libsndfile reads.
    shortest : float
        Seconds; shorter sounds are refused.
    largest : int
        Samples of all channels together; larger sounds are refused, since compressed files
        unfold to any size.

    Returns
    -------
    Audio
        All samples.

    Raises
    ------
    AudioFileError
        If there is no such file; it is no sound, damaged, or breaks off before its end; a sample
        is not a finite number; or the sound is too short or too large.
    """
    path = Path(path)
    blocks, count = [], 0
    with _opened(path) as file:
        rate = file.samplerate
        for block in _native_blocks(file, path, _BLOCK_SECONDS):
            blocks.append(block)
            count += block.size
            if count > largest:
                raise AudioFileError(
                    path,
                    f"it holds more than {largest} samples",
                    "as many at most",
                    "Cut it, or read it in pieces (stream_blocks), or allow more (largest).",
                )
        channels = file.channels
    samples = np.concatenate(blocks, 1) if blocks else np.zeros((channels, 0), np.float32)
    _refuse_short(path, samples.shape[1], rate, shortest)
    if clipped := clipped_samples(samples):
        _LOG.warning(
            "%s: %d samples in runs at full scale, the recording is clipped; "
            "separated sounds will be distorted too",
            path,
            clipped,
        )
    return Audio(samples, rate, path)


def stream_blocks(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    seconds: float = _BLOCK_SECONDS,
    shortest: float = SHORTEST_SECONDS,
) -> Iterator[np.ndarray]:
    """Read a sound file piece by piece, in memory that does not grow with its length.

    Parameters
    ----------
    path : str or Path
        As for :func:`read_audio`, which refuses the same files.
    sample_rate : int, optional
        Hz, what to resample to; the file's own if absent. The result is that of resampling the
        whole: pieces are filtered with enough of their neighbours.
    seconds : float
        Length of the pieces as they are read.
    shortest : float
        Seconds; shorter sounds are refused.

    Yields
    ------
    ndarray, shape (channels, m), float32
        Consecutive pieces, of lengths that may differ.

    Raises
    ------
    AudioFileError
        As :func:`read_audio`, when the piece at fault is reached.
    """
    path = Path(path)
    with _opened(path) as file:
        _refuse_short(path, file.frames, file.samplerate, shortest)
        blocks = _native_blocks(file, path, seconds)
        if sample_rate is None or sample_rate == file.samplerate:
            yield from blocks
        else:
            yield from resampled_blocks(blocks, file.samplerate, sample_rate)


def resampled_blocks(
    blocks: Iterable[np.ndarray], from_rate: int, to_rate: int
) -> Iterator[np.ndarray]:
    """Resample consecutive pieces as if they were one; see :func:`stream_blocks`."""
    import torch

    from rectiflow_audio.frontend import resample, resample_reach

    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor  # `old` samples in make `new` out
    context = -(-resample_reach(from_rate, to_rate) // old)  # periods
    held, start, done = None, 0, 0  # samples from period `start`; periods before `done` are out
    for block in blocks:
        held = block if held is None else np.concatenate([held, block], 1)
        final = start + held.shape[1] // old - context
        if final > done:
            out = resample(torch.from_numpy(held), from_rate, to_rate).numpy()
            yield out[:, (done - start) * new : (final - start) * new]
            done = final
            drop = max(0, done - context - start)
            held, start = held[:, drop * old :].copy(), start + drop
    if held is not None:
        out = resample(torch.from_numpy(held), from_rate, to_rate).numpy()
        yield out[:, (done - start) * new :]


def clipped_samples(samples: np.ndarray) -> int:
    """Count the samples, shape (channels, n), that stand in runs of 3 or more at full scale."""
    magnitude = np.abs(samples)
    peaks = magnitude.max(1, keepdims=True, initial=0.0)
    at_peak = (magnitude >= np.maximum(peaks * (1 - 1e-4), _NEAR_FULL_SCALE)).astype(np.int8)
    edges = np.diff(np.pad(at_peak, ((0, 0), (1, 1))), axis=1).ravel()
    lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    return int(lengths[lengths >= _CLIPPED_RUN].sum())


@contextmanager
def _opened(path: Path) -> Iterator[Decoder]:
    """Open a file that is a whole sound, or say why it is not."""
    from rectiflow_audio.io.decoder import decoding

    with _raw(path) as raw:
        finding = _inspected(raw)
        if finding.promised:
            raise _broken_off(path, finding.promised)
        if finding.remark:
            _LOG.warning("%s: %s", path, finding.remark)
        with decoding(path, raw, finding) as file:
            _refuse_rate(path, file.samplerate)
            for told, there in _CUT.findall("" if finding.head else file.extra_info):
                if int(told) > int(there) + _PADDING:
                    raise _broken_off(path, f"{told} bytes")
            yield file


def _raw(path: Path) -> BinaryIO:
    """Open a file, refusing what is none or has nothing in it."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode) or path.is_dir()
        raw = path.open("rb") if is_file else None  # a pipe would keep us waiting
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        told: dict[type[Exception], str] = {
            FileNotFoundError: "there is no such file",
            IsADirectoryError: "it is a folder",
            PermissionError: "it may not be read",
        }
        reason = f"it cannot be opened ({getattr(error, 'strerror', error)})"
        found = told.get(type(error), reason)
        raise AudioFileError(path, found, "a sound file", "Check the path.") from error
    if raw is None:
        raise AudioFileError(path, "it is no file", "a sound file", "Write it to a file first.")
    if not os.fstat(raw.fileno()).st_size:
        raw.close()
        raise AudioFileError(path, "it is empty", "a sound file", "Copy it again.")
    return raw


def _inspected(raw: BinaryIO) -> Finding:
    size = os.fstat(raw.fileno()).st_size
    findings = (inspect(raw, size) for inspect in _INSPECTORS)
    return next((finding for finding in findings if finding is not None), Finding())


def _native_blocks(file: Decoder, path: Path, seconds: float) -> Iterator[np.ndarray]:
    """Read a file in pieces (channels, n), refusing what :func:`read_audio` would."""
    from soundfile import LibsndfileError

    length = min(round(seconds * file.samplerate), _LARGEST_BLOCK // file.channels)
    position = 0
    while True:
        try:
            block = file.read(max(1, length), dtype="float32", always_2d=True).T
        except LibsndfileError as error:
            raise _broken_off(path, f"{file.frames} samples") from error
        if not block.shape[1]:
            break
        _refuse_infinite(path, block, position, file.samplerate)
        position += block.shape[1]
        yield np.ascontiguousarray(block)
    # The tag of some MP3 files counts its own frame.
    short = file.frames - position if file.frames < _UNKNOWN_LENGTH else 0
    if short > (_MP3_FRAME if file.format == "MP3" else 0):
        raise _broken_off(path, f"{file.frames} samples, of which {position} are there")


def _refuse_rate(path: Path, rate: int) -> None:
    low, high = _RATES
    if not low <= rate <= high:
        raise AudioFileError(
            path,
            f"its sample rate is {rate} Hz",
            f"{low} to {high} Hz",
            "Correct its header: with another rate the sound would be another.",
        )


def _refuse_short(path: Path, samples: int, rate: int, shortest: float) -> None:
    if samples == 0 or samples < shortest * rate:
        raise AudioFileError(
            path,
            f"it is too short, {samples / rate:.3f} s ({samples} samples)",
            f"at least {shortest:g} s",
            "Use a longer recording, or pad it with silence.",
        )


def _refuse_infinite(path: Path, samples: np.ndarray, position: int, rate: int) -> None:
    bad = ~np.isfinite(samples)
    if bad.any():
        first = position + int(bad.any(0).argmax())
        raise AudioFileError(
            path,
            f"it holds {int(bad.sum())} samples that are NaN or infinite, the first at "
            f"{first / rate:.3f} s (sample {first})",
            "finite samples",
            "Export it again from the program that made it.",
        )


def _broken_off(path: Path, promised: str) -> AudioFileError:
    size = path.stat().st_size
    return AudioFileError(
        path,
        f"it breaks off or is damaged, the file ends at byte {size}",
        f"what its header promises, {promised}",
        "Copy it again, or save the part that plays as a new file.",
    )
