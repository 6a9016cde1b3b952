"""The one error of sound files."""

from __future__ import annotations

from rectiflow.storage.faults import FileError


class AudioFileError(FileError):
    """A sound file could not be used; see :class:`rectiflow.storage.faults.FileError`."""
