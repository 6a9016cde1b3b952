"""The one error of structure files."""

from __future__ import annotations

from rectiflow.storage.faults import FileError


class StructureError(FileError):
    """A structure file could not be used; see :class:`rectiflow.storage.faults.FileError`."""
