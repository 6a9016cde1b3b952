"""Any file of trajectories, by its suffix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rectiflow.storage.faults import storing

from rectiflow_trajectories.io.arrays import PLACES, read_named, read_runs
from rectiflow_trajectories.io.errors import TrajectoryFileError
from rectiflow_trajectories.io.text import read_pedestrians, read_table, read_xyz
from rectiflow_trajectories.trajectory import Trajectory

_READERS: dict[str, Callable[[Path], list[Trajectory]]] = {
    ".npy": read_runs,
    ".npz": read_named,
    ".csv": read_table,
    ".txt": read_pedestrians,
    ".xyz": read_xyz,
}
SUFFIXES = frozenset(_READERS)


def read_trajectories(
    path: str | Path, *, unit: str = "", unwrap: bool = False
) -> list[Trajectory]:
    """Read the trajectories of a file: many of ``.npy``, one of others.

    Parameters
    ----------
    path : str or Path
        ``loc*.npy`` of the authors' N-body arrays; ``.npz`` of MD17 or with ``positions``; ``.csv``
        of frame, node, x, y, z; ``.txt`` of ETH and UCY; ``.xyz``.
    unit : str
        Of lengths, where the file does not tell it.
    unwrap : bool
        Follow nodes across the faces of a periodic box.

    Raises
    ------
    StorageError, FileError
        When it cannot be read or used.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TrajectoryFileError(
            path, f"it ends in {path.suffix or 'nothing'}", f"one of {', '.join(sorted(SUFFIXES))}",
            "Save it in one of these forms.",
        )  # fmt: skip
    with storing(path):
        path.stat()
        found = reader(path)
    for trajectory in found:
        if unit and trajectory.unit and unit != trajectory.unit:
            raise TrajectoryFileError(
                path, f"it is in {trajectory.unit}, got unit {unit}", "one of the two",
                "Leave the unit out.",
            )  # fmt: skip
    found = [replace(trajectory, unit=trajectory.unit or unit) for trajectory in found]
    if not unwrap:
        return found
    try:
        return [trajectory.unwrapped() for trajectory in found]
    except ValueError as error:
        told, _, wanted = str(error).partition("; expected ")
        wanted, _, hint = wanted.partition(". ")
        raise TrajectoryFileError(path, told, wanted, hint) from error


def files_in(folder: Path) -> list[Path]:
    """Return the files of trajectories in a folder; charges and the like are read with theirs."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and (path.suffix.lower() != ".npy" or path.name.startswith(PLACES))
    )
