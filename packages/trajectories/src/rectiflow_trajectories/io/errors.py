"""The error of files of trajectories."""

from __future__ import annotations

from rectiflow.storage.faults import FileError


class TrajectoryFileError(FileError):
    """A file of trajectories could not be used."""
