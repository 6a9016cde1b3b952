"""Sound files written whole or piece by piece, and never by halves."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from rectiflow_audio.io.errors import AudioFileError

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

_LOG = logging.getLogger(__name__)

FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
"""Suffixes that can be written."""

_SUBTYPES = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
_FLOATING = {"FLOAT", "DOUBLE", "VORBIS"}  # subtypes that hold samples beyond ±1

_DEPTHS = ("PCM_16", "PCM_24", "PCM_32", "FLOAT")  # of WAV; FLAC holds the first two
_NEAREST = {
    "PCM_24": "PCM_24",
    "PCM_32": "PCM_32",
    **dict.fromkeys(("FLOAT", "DOUBLE", "VORBIS", "OPUS"), "FLOAT"),
    **dict.fromkeys(("MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III"), "FLOAT"),
}
_BLOCK = 1 << 16  # samples of each channel: the Vorbis encoder keeps a whole write on its stack
_LONGEST_NAME = 255  # bytes
_MOST_CHANNELS = 1024


def depth_like(subtype: str, path: str | Path) -> str | None:
    """Return the depth for a file in which a part of a recording is written.

    Parameters
    ----------
    subtype : str
        Of the recording, see :class:`SoundInfo`. What MP3 and Vorbis decode to are floats, which
        pass full scale.
    path : str or Path
        The file; its suffix tells the format.

    Returns
    -------
    str or None
        The least depth that holds the recording's, or the most that the format has; None for
        formats without depths.

    Examples
    --------
    >>> depth_like("PCM_24", "a.wav"), depth_like("MPEG_LAYER_III", "a.flac")
    ('PCM_24', 'PCM_24')
    """
    depth = _NEAREST.get(subtype, "PCM_16")
    match Path(path).suffix.lower():
        case ".wav":
            return depth
        case ".flac":
            return _DEPTHS[min(1, _DEPTHS.index(depth))]
    return None


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
        suffix = self.path.suffix.lower()
        if suffix not in FORMATS:
            raise AudioFileError(
                path,
                f"the suffix is {self.path.suffix!r}",
                f"one of {', '.join(FORMATS)}",
                "Name the file after the format it shall have.",
            )
        self._format = FORMATS[suffix]
        self.subtype = subtype or _SUBTYPES[self._format]
        self._written = self._clipped = 0
        self._partial = _partial_of(self.path)
        if channels > _MOST_CHANNELS or not soundfile.check_format(self._format, self.subtype):
            raise self._impossible(sample_rate)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Opened here, so that a folder that may not be written to is told as what it is.
        self._handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        how = {"subtype": self.subtype, "format": self._format, "closefd": False}
        try:
            self._file = soundfile.SoundFile(self._handle, "w", sample_rate, channels, **how)
        except (soundfile.SoundFileError, ValueError, TypeError, OverflowError) as error:
            os.close(self._handle)
            self._partial.unlink(missing_ok=True)
            raise self._impossible(sample_rate) from error

    def _impossible(self, sample_rate: int) -> AudioFileError:
        return AudioFileError(
            self.path,
            f"{self._format} cannot hold {self.channels} channels of {self.subtype} at "
            f"{sample_rate} Hz",
            "a combination the format knows",
            "Choose another depth or rate, or WAV, which holds all.",
        )

    def write(self, samples: np.ndarray | Tensor) -> None:
        """Append samples of shape (channels, n), or (n,) for one channel.

        Raises
        ------
        ValueError
            If the number of channels is another, or samples are no floats or not finite.
        AudioFileError
            If the disk is full.
        """
        block = _floats(samples)
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
        from soundfile import LibsndfileError

        for start in range(0, block.shape[1], _BLOCK):
            piece = block[:, start : start + _BLOCK].T
            try:
                self._file.write(piece)
            except (LibsndfileError, AssertionError) as error:  # it asserts that all was written
                raise self._no_room() from error
            self._written += len(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._close(is_kept=kind is None)
        except BaseException:
            self._partial.unlink(missing_ok=True)
            raise

    def _close(self, *, is_kept: bool) -> None:
        """Finish the file; what is kept must hold what was written."""
        import soundfile

        try:
            try:
                self._file.close()
            finally:
                os.close(self._handle)
            if is_kept and self._format != "MP3":  # which does not tell its length exactly
                with soundfile.SoundFile(os.fsencode(self._partial)) as made:
                    is_kept = made.frames == self._written
                if not is_kept:
                    raise self._no_room()
        except soundfile.SoundFileError as error:
            if is_kept:
                raise self._no_room() from error
        if not is_kept:
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

    def _no_room(self) -> AudioFileError:
        return AudioFileError(
            self.path,
            "it could not be written whole",
            "room on the disk",
            "Free some, or choose another folder; nothing was left behind.",
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
    block = _floats(samples)
    loud = bool(block.size) and float(np.abs(block).max()) > 1
    if subtype is None and loud and Path(path).suffix.lower() == ".wav":
        subtype = "FLOAT"
    with AudioWriter(path, sample_rate, block.shape[0], subtype=subtype) as writer:
        writer.write(block)


def _floats(samples: np.ndarray | Tensor) -> np.ndarray:
    """Return samples as float32 (channels, n)."""
    block = np.atleast_2d(np.asarray(samples))
    if block.dtype.kind != "f":
        raise ValueError(
            f"samples must be floats, got {block.dtype}; expected full scale ±1. Divide whole "
            "numbers of 16 bits by 32768."
        )
    if block.ndim != 2 or block.shape[0] > max(_MOST_CHANNELS, block.shape[1]):
        raise ValueError(
            f"samples have the wrong shape, got {block.shape}; expected (channels, n). Channels "
            "come first: pass samples.T."
        )
    return block.astype(np.float32, copy=False)


def _partial_of(path: Path) -> Path:
    """Return the name under which a file is written: no longer than its own, and of this run."""
    if (size := len(os.fsencode(path.name))) > _LONGEST_NAME:
        raise AudioFileError(
            path, f"its name has {size} bytes", f"{_LONGEST_NAME} at most", "Choose a shorter one."
        )
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(f".{digest}.{os.getpid()}.partial")
