"""Reading and writing sound files: WAV, FLAC, Ogg Vorbis, MP3.

Samples are float32 of shape ``(channels, samples)``, full scale ±1. Nothing is resampled, mixed
down or scaled here. A file that is not whole is refused with the place where it breaks off, since
half a recording separated without a word is worse than an error.
"""

from __future__ import annotations

import logging
import math
import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from soundfile import SoundFile
    from torch import Tensor

_LOG = logging.getLogger(__name__)

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
"""Suffixes that can be written."""

SHORTEST_SECONDS = 0.1
"""Shorter sounds are refused: they fill hardly ten frames of a spectrogram."""

_SUBTYPES = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
_FLOATING = {"FLOAT", "DOUBLE", "VORBIS"}  # subtypes that hold samples beyond ±1
_NEAR_FULL_SCALE = 0.99  # 8-bit sound cannot come nearer to +1 than 127 / 128
_CLIPPED_RUN = 3  # samples in a row at the peak: no sound does that by itself
_UNKNOWN_SIZES = {0, 0xFFFFFFFF}  # what recorders write that do not know the length yet
_BLOCK_SECONDS = 10.0
_HEAD_BYTES = 1 << 16
_OGG_HEADER = 27  # bytes of a page before its table of segments


class AudioFileError(ValueError):
    """A sound file could not be used.

    Parameters
    ----------
    path : str or Path
        The file.
    found : str
        What is in it, as a clause ("it ends at byte 512").
    expected : str
        What was needed.
    hint : str
        What to do about it, a sentence.
    """

    def __init__(self, path: str | Path, found: str, expected: str, hint: str) -> None:
        super().__init__(f"{path}: {found}; expected {expected}. {hint}")
        self.path, self.found, self.expected, self.hint = Path(path), found, expected, hint

    @property
    def reason(self) -> str:
        """What was found and what was expected, without the path: a cell of a table."""
        return f"{self.found}; expected {self.expected}"

    def __reduce__(self) -> tuple[type[AudioFileError], tuple[Path, str, str, str]]:
        return AudioFileError, (self.path, self.found, self.expected, self.hint)


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
        Length of each channel; an estimate for MP3 files that do not say it.
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
    """Read the header of a sound file.

    Raises
    ------
    AudioFileError
        If there is no such file, it is no sound, or it visibly breaks off.
    """
    with _opened(Path(path)) as file:
        return SoundInfo(file.frames, file.samplerate, file.channels, file.subtype)


def read_audio(path: str | Path, *, shortest: float = SHORTEST_SECONDS) -> Audio:
    """Read a sound file of any rate, depth and number of channels.

    Clipped recordings are read with a warning in the log.

    Parameters
    ----------
    path : str or Path
        WAV, FLAC, Ogg, MP3 or whatever else libsndfile reads.
    shortest : float
        Seconds; shorter sounds are refused.

    Returns
    -------
    Audio
        All samples.

    Raises
    ------
    AudioFileError
        If there is no such file; it is no sound, damaged, or breaks off before its end; a sample
        is not a finite number; or the sound is too short.
    """
    path = Path(path)
    with _opened(path) as file:
        samples = _read(file, path)
        _refuse_short(path, samples.shape[1], file.samplerate, shortest)
        if samples.shape[1] < file.frames and _promises_length(file, path):
            raise _broken_off(path, f"{samples.shape[1]} of {file.frames} samples")
        _refuse_infinite(path, samples, 0, file.samplerate)
        if clipped := clipped_samples(samples):
            _LOG.warning(
                "%s: %d samples in runs at full scale, the recording is clipped; "
                "separated sounds will be distorted too",
                path,
                clipped,
            )
        return Audio(samples, file.samplerate, path)


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
        blocks = _native_blocks(file, path, max(1, round(seconds * file.samplerate)))
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


class AudioWriter:
    """Write a sound file piece by piece; it appears under its name when it is whole.

    Use it as a context manager. If the block raises, nothing is left behind and a file that was
    there stays as it was.

    Parameters
    ----------
    path : str or Path
        The file; its suffix chooses the format. Missing folders are made.
    sample_rate : int
        Hz.
    channels : int
        Number of channels.
    subtype : str, optional
        Depth, as libsndfile names it ("PCM_24", "FLOAT"). 16 bit if absent, for the formats that
        have a depth.

    Raises
    ------
    AudioFileError
        If the format is not one of :data:`FORMATS` or cannot hold this rate, depth or number of
        channels.
    """

    def __init__(
        self, path: str | Path, sample_rate: int, channels: int = 1, *, subtype: str | None = None
    ) -> None:
        import soundfile

        self.path, self.channels = Path(path), channels
        file_format = FORMATS.get(self.path.suffix.lower())
        if file_format is None:
            raise AudioFileError(
                path,
                f"the suffix is {self.path.suffix!r}",
                f"one of {', '.join(FORMATS)}",
                "Name the file after the format it shall have.",
            )
        self.subtype = subtype or _SUBTYPES[file_format]
        self._clipped = 0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = soundfile.SoundFile(
                self._partial, "w", sample_rate, channels, self.subtype, format=file_format
            )
        except (soundfile.SoundFileError, ValueError) as error:
            self._partial.unlink(missing_ok=True)
            raise AudioFileError(
                path,
                f"{file_format} cannot hold {channels} channels of {self.subtype} at "
                f"{sample_rate} Hz",
                "a combination the format knows",
                "Choose another depth or rate, or WAV, which holds all.",
            ) from error

    def write(self, samples: np.ndarray | Tensor) -> None:
        """Append samples of shape (channels, n), or (n,) for one channel.

        Raises
        ------
        ValueError
            If the number of channels is another or a sample is not finite.
        """
        block = np.atleast_2d(np.asarray(samples, dtype=np.float32))
        if block.shape[0] != self.channels:
            raise ValueError(
                f"samples have the wrong shape, got {block.shape}; expected "
                f"({self.channels}, n). Channels come first."
            )
        if not np.isfinite(block).all():
            raise ValueError(
                "samples must be finite, got NaN or infinity; expected numbers. The separation "
                "failed: look at its input and weights."
            )
        if self.subtype not in _FLOATING:
            self._clipped += int((np.abs(block) > 1).sum())
            block = block.clip(-1, 1)
        self._file.write(block.T)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is not None:
            self._partial.unlink(missing_ok=True)
            return
        os.replace(self._partial, self.path)
        if self._clipped:
            _LOG.warning(
                "%s: %d samples passed full scale and were clipped; write floats "
                "(WAV, subtype FLOAT) or a lower level",
                self.path,
                self._clipped,
            )


def write_audio(
    path: str | Path,
    samples: np.ndarray | Tensor,
    sample_rate: int,
    *,
    subtype: str | None = None,
) -> None:
    """Write a sound file; the suffix chooses the format.

    Parameters
    ----------
    path : str or Path
        ``.wav``, ``.flac``, ``.ogg`` or ``.mp3``. Missing folders are made.
    samples : ndarray or Tensor, shape (channels, n) or (n,)
        Full scale ±1.
    sample_rate : int
        Hz.
    subtype : str, optional
        Depth, as libsndfile names it. If absent, 16 bit; a WAV file of samples beyond full scale
        becomes 32-bit float, so that nothing is clipped.

    Raises
    ------
    AudioFileError, ValueError
        As :class:`AudioWriter`.
    """
    block = np.atleast_2d(np.asarray(samples, dtype=np.float32))
    loud = bool(block.size) and float(np.abs(block).max()) > 1
    if subtype is None and loud and Path(path).suffix.lower() == ".wav":
        subtype = "FLOAT"
    with AudioWriter(path, sample_rate, block.shape[0], subtype=subtype) as writer:
        writer.write(block)


def clipped_samples(samples: np.ndarray) -> int:
    """Count the samples, shape (channels, n), that stand in runs of 3 or more at full scale."""
    magnitude = np.abs(samples)
    peaks = magnitude.max(1, keepdims=True, initial=0.0)
    at_peak = (magnitude >= np.maximum(peaks * (1 - 1e-4), _NEAR_FULL_SCALE)).astype(np.int8)
    edges = np.diff(np.pad(at_peak, ((0, 0), (1, 1))), axis=1).ravel()
    lengths = np.flatnonzero(edges < 0) - np.flatnonzero(edges > 0)
    return int(lengths[lengths >= _CLIPPED_RUN].sum())


@contextmanager
def _opened(path: Path) -> Iterator[SoundFile]:
    """Open a file that is a whole sound, or say why it is not."""
    import soundfile

    _refuse_no_file(path)
    if (end := _announced_end(path)) is not None and end > path.stat().st_size:
        raise _broken_off(path, f"{end} bytes")
    try:
        file = soundfile.SoundFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: the suffix is ".raw"
        reason = getattr(error, "error_string", "it has no header").rstrip(".")
        raise AudioFileError(
            path,
            f"it cannot be read ({reason})",
            "a sound file such as WAV, FLAC, Ogg or MP3",
            "Check that it plays elsewhere, and convert it to WAV.",
        ) from error
    with file:
        yield file


def _read(file: SoundFile, path: Path, frames: int = -1) -> np.ndarray:
    """Read samples as (channels, n)."""
    import soundfile

    try:
        return np.ascontiguousarray(file.read(frames, dtype="float32", always_2d=True).T)
    except soundfile.LibsndfileError as error:
        raise _broken_off(path, f"{file.frames} samples") from error


def _native_blocks(file: SoundFile, path: Path, length: int) -> Iterator[np.ndarray]:
    """Read a file in pieces, refusing what :func:`read_audio` would."""
    position = 0
    while (block := _read(file, path, length)).shape[1]:
        _refuse_infinite(path, block, position, file.samplerate)
        position += block.shape[1]
        yield block
    if position < file.frames and _promises_length(file, path):
        raise _broken_off(path, f"{position} of {file.frames} samples")


def _refuse_no_file(path: Path) -> None:
    """Refuse what is not a file with something in it."""
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        raise AudioFileError(path, found, "a sound file", "Check the path.")
    if not path.stat().st_size:
        raise AudioFileError(path, "it is empty", "a sound file", "Copy it again.")
    if not os.access(path, os.R_OK):
        raise AudioFileError(path, "it may not be read", "permission", "Change its permissions.")


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


def _promises_length(file: SoundFile, path: Path) -> bool:
    """Tell whether the number of samples is written in the file; bare MP3 has it estimated."""
    if file.format != "MP3":
        return True
    with path.open("rb") as raw:
        head = raw.read(_HEAD_BYTES)
    return b"Xing" in head or b"Info" in head


def _announced_end(path: Path) -> int | None:
    """Return the byte where the sound must end by its own account, where the format has one."""
    with path.open("rb") as file:
        match file.read(4):
            case b"RIFF":
                return _data_chunk_end(file, "<4sI", b"data")
            case b"FORM":
                return _data_chunk_end(file, ">4sI", b"SSND")
            case b"OggS":
                return _last_page_end(file, path.stat().st_size)
    return None


def _data_chunk_end(file: BinaryIO, header: str, name: bytes) -> int | None:
    """Walk the chunks of a RIFF or AIFF file to the one that holds the samples."""
    position = 12  # after the form's name, size and type
    file.seek(position)
    while len(head := file.read(8)) == 8:
        chunk, size = struct.unpack(header, head)
        position += 8
        if chunk == name:
            return None if size in _UNKNOWN_SIZES else position + size
        position += size + size % 2
        file.seek(position)
    return None


def _last_page_end(file: BinaryIO, size: int) -> int | None:
    """Find where the last page of an Ogg file must end; a page has at most 65,307 bytes."""
    start = max(0, size - _HEAD_BYTES)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + _OGG_HEADER]
    if page < 0 or len(header) < _OGG_HEADER:
        return size + 1
    segments = header[-1]
    table = tail[page + _OGG_HEADER : page + _OGG_HEADER + segments]
    return start + page + _OGG_HEADER + segments + sum(table)
