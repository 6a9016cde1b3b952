"""The errors of mesh files and of pictures."""

from __future__ import annotations

from rectiflow.storage.faults import FileError


class MeshFileError(FileError):
    """A mesh file could not be used; see :class:`rectiflow.storage.faults.FileError`."""


class ImageFileError(FileError):
    """A picture could not be used; see :class:`rectiflow.storage.faults.FileError`."""
