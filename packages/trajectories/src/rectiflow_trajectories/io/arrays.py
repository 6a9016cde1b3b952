"""NumPy files: the authors' N-body arrays, molecules as MD17 has them, and arrays by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.files import whole_file

from rectiflow_trajectories.io.errors import TrajectoryFileError
from rectiflow_trajectories.trajectory import Trajectory

if TYPE_CHECKING:
    from rectiflow_trajectories.simulators import Runs

PLACES = "loc"
"""How the names of the authors' files of positions begin; ``charges`` and ``edges`` are alike."""


def read_runs(path: Path) -> list[Trajectory]:
    """Read ``loc*.npy (s, t, n, d)`` with the files of charges and edges beside it."""
    if not path.name.startswith(PLACES):
        raise TrajectoryFileError(
            path,
            "its name does not begin with loc",
            "positions of many runs, with charges*.npy and edges*.npy beside them",
            "Name the file of positions, or save one trajectory as NPZ.",
        )
    loc = load_array(path)
    if loc.ndim != 4:
        raise TrajectoryFileError(
            path, f"its shape is {loc.shape}", "(runs, frames, nodes, 2 or 3)", "Turn its axes."
        )
    told = {}
    for name in ("charges", "edges"):
        other = path.with_name(name + path.name.removeprefix(PLACES))
        if other.is_file():
            told[name] = load_array(other)
            if len(told[name]) != len(loc):
                raise TrajectoryFileError(
                    other, f"it has {len(told[name])} runs", f"{len(loc)}, as {path.name}",
                    "Save both together.",
                )  # fmt: skip
    return [
        made(path, run, **{name: value[i] for name, value in told.items()})
        for i, run in enumerate(loc)
    ]


def read_named(path: Path) -> list[Trajectory]:
    """Read one trajectory of an NPZ: ``positions``, or a molecule's ``R`` and ``z``."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            a = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise _unreadable(path, error) from error
    for places, numbers in (("R", "z"), ("coords", "nuclear_charges")):
        if places in a:
            if numbers not in a:
                raise TrajectoryFileError(
                    path, f"{places} without {numbers}", "atomic numbers", "Save both."
                )
            return [made(path, a[places], charges=a[numbers], unit="angstrom")]
    if "positions" not in a:
        raise TrajectoryFileError(
            path, f"it has arrays {', '.join(sorted(a)) or 'none'}",
            "positions (frames, nodes, 2 or 3), or R and z of a molecule", "Rename them.",
        )  # fmt: skip
    told = {name: a[name] for name in ("charges", "edges", "box") if name in a}
    names = tuple(map(str, a["names"].ravel())) if "names" in a else ()
    return [made(path, a["positions"], names=names, unit=str(a.get("unit", "")), **told)]


def made(path: Path, positions: Any, **told: Any) -> Trajectory:
    """Return a trajectory of what a file has, or say what is wrong with it."""
    try:
        for name, flat in (("charges", True), ("edges", False), ("box", True)):
            if told.get(name) is not None:
                value = np.asarray(told[name], dtype=float)
                told[name] = value.ravel() if flat else value
        return Trajectory(np.asarray(positions, dtype=float), **told)
    except (ValueError, TypeError) as error:
        found, _, wanted = str(error).rstrip(".").partition("; expected ")
        raise TrajectoryFileError(path, found, wanted or "numbers", "Correct the file.") from error


def load_array(path: Path) -> np.ndarray:
    """Read one array of numbers."""
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    if not (isinstance(found, np.ndarray) and found.dtype.kind in "fiu"):
        raise TrajectoryFileError(path, "it holds no numbers", "an array of them", "Save it anew.")
    return found


def write_runs(folder: Path, name: str, runs: Runs) -> list[Path]:
    """Write the authors' arrays of simulated runs: loc, vel, charges and edges."""
    written = []
    for part, values in vars(runs).items():
        path = folder / f"{part}_{name}.npy"
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.save(file, values)
        written.append(path)
    return written


def _unreadable(path: Path, error: Exception) -> TrajectoryFileError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return TrajectoryFileError(path, f"it cannot be read ({said})", "arrays", "Save it anew.")
