"""Text: tables of frames and nodes, the pedestrians of ETH and UCY, and XYZ of molecules."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from rectiflow.storage.reading import read_rows, read_text

from rectiflow_trajectories.features import TYPES
from rectiflow_trajectories.io.arrays import made
from rectiflow_trajectories.io.errors import TrajectoryFileError
from rectiflow_trajectories.trajectory import Trajectory

SYMBOLS = ("H", "He", "Li", "Be", "B", "C", "N", "O", "F")
CELLS = 200_000_000
"""Numbers that a table may unfold to."""


def read_table(path: Path) -> list[Trajectory]:
    """Read a CSV of ``frame, node, x, y`` and maybe ``z`` and ``charge``, in any order of rows."""
    rows = read_rows(path, ("frame", "node", "x", "y"), hint="Add the column.")
    axes = ("x", "y", "z") if rows and "z" in rows[0][1] else ("x", "y")
    try:
        frames = np.array([float(row["frame"]) for _, row in rows])
        places = np.array([[float(row[axis] or "nan") for axis in axes] for _, row in rows])
    except ValueError as error:
        raise TrajectoryFileError(path, f"a cell is no number ({error})", "numbers", "") from error
    names = [row["node"] for _, row in rows]
    charges = None
    if rows and "charge" in rows[0][1]:
        told: dict[str, str] = {}
        for line, row in rows:
            if told.setdefault(row["node"], row["charge"]) != row["charge"]:
                raise TrajectoryFileError(
                    path, f"line {line}: node {row['node']} has another charge than before",
                    "one for each node", "Correct the table.",
                )  # fmt: skip
        charges = told
    return [_scene(path, frames, names, places, charges)]


def read_pedestrians(path: Path) -> list[Trajectory]:
    """Read lines of frame, pedestrian, x and y in metres, as ETH and UCY are given."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = re.split(r"[\s,]+", line.strip())
        if cells == [""]:
            continue
        try:
            rows.append([float(cell) for cell in cells])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != 4:
            raise TrajectoryFileError(
                path, f"line {number} is {line.strip()[:60]!r}", "frame, pedestrian, x, y",
                "Correct the line.",
            )  # fmt: skip
    table = np.array(rows).reshape(-1, 4)
    names = [f"{node:g}" for node in table[:, 1]]
    return [_scene(path, table[:, 0], names, table[:, 2:], unit="m", comes_and_goes=True)]


def read_xyz(path: Path) -> list[Trajectory]:
    """Read the frames of an XYZ file of one molecule, in angstrom."""
    lines = read_text(path).splitlines()
    frames: list[np.ndarray] = []
    at, symbols, box = 0, None, None
    while at < len(lines) and lines[at].strip():
        count, number = lines[at].strip(), len(frames) + 1
        block = lines[at + 2 : at + 2 + (int(count) if count.isdigit() else 0)]
        rows = [line.split() for line in block]
        if not count.isdigit() or len(rows) != int(count) or any(len(row) < 4 for row in rows):
            raise TrajectoryFileError(
                path, f"frame {number} is cut short or damaged (line {at + 1})",
                "a count, a comment, and a line of symbol, x, y and z for each atom",
                "Write the file anew.",
            )  # fmt: skip
        own = [row[0] for row in rows]
        symbols = symbols or own
        if own != symbols:
            told = "in another order" if sorted(own) == sorted(symbols) else "than before"
            raise TrajectoryFileError(
                path, f"frame {number} lists other atoms {told}", "the same atoms in each frame",
                "Sort the atoms of every frame alike.",
            )  # fmt: skip
        try:
            frames.append(np.array([row[1:4] for row in rows], dtype=float))
        except ValueError as error:
            raise TrajectoryFileError(
                path, f"frame {number} holds no numbers", "x, y, z", "Correct it."
            ) from error
        box = _box(path, lines[at + 1]) if box is None else box
        at += 2 + len(rows)
    unknown = sorted(set(symbols or ()) - set(SYMBOLS))
    if not frames or unknown:
        raise TrajectoryFileError(
            path, f"elements {', '.join(unknown)}" if unknown else "it has no frames",
            f"frames of atoms among {', '.join(SYMBOLS)}", "",
        )  # fmt: skip
    positions = np.stack(frames)
    _same_atoms(path, positions)
    numbers = [SYMBOLS.index(symbol) + 1 for symbol in symbols or ()]
    assert max(numbers) < TYPES
    return [made(path, positions, charges=numbers, unit="angstrom", box=box)]


def _scene(
    path: Path,
    frames: np.ndarray,
    names: list[str],
    places: np.ndarray,
    charges: dict[str, str] | None = None,
    *,
    unit: str = "",
    comes_and_goes: bool = False,
) -> Trajectory:
    """Put rows of a table into frames, evenly spaced; what has no row is not seen."""
    if not len(frames) or not np.isfinite(frames).all():
        raise TrajectoryFileError(path, "it has no rows, or a frame is no number", "rows", "")
    known = np.unique(frames)
    step = np.diff(known).min() if len(known) > 1 else 1.0
    at = np.round((frames - known[0]) / step).astype(int)
    if np.abs(frames - known[0] - at * step).max() > 0.01 * step:
        raise TrajectoryFileError(
            path, f"frames are not evenly spaced (some are {step:g} apart, others not a multiple)",
            "multiples of one step", "Sample the trajectory at even times.",
        )  # fmt: skip
    nodes = sorted(set(names), key=lambda name: (len(name), name))
    if (at.max() + 1) * len(nodes) > CELLS:
        raise TrajectoryFileError(
            path, f"{at.max() + 1} frames of {len(nodes)} nodes", f"at most {CELLS} places",
            "Cut the file.",
        )  # fmt: skip
    of = {name: i for i, name in enumerate(nodes)}
    columns = np.array([of[name] for name in names])
    if len(np.unique(at * len(nodes) + columns)) < len(at):
        raise TrajectoryFileError(
            path, "a node has two places in one frame", "one", "Remove repeated rows."
        )
    positions = np.full((at.max() + 1, len(nodes), places.shape[1]), np.nan)
    positions[at, columns] = places
    told = None if charges is None else [charges[name] for name in nodes]
    return made(
        path, positions, charges=told, names=tuple(nodes), unit=unit, comes_and_goes=comes_and_goes
    )


def _box(path: Path, comment: str) -> np.ndarray | None:
    """Return the sides of the periodic box that a comment tells, if there is one."""
    told = re.search(r'Lattice="([^"]*)"', comment)
    open_space = re.search(r'pbc="\s*F\s+F\s+F\s*"', comment)
    if told is None or open_space:
        return None
    try:
        lattice = np.array(told[1].split(), dtype=float).reshape(3, 3)
    except ValueError as error:
        raise TrajectoryFileError(path, "its Lattice is damaged", "nine numbers", "") from error
    if np.abs(lattice - np.diag(np.diag(lattice))).max() > 1e-9 or not (np.diag(lattice) > 0).all():
        raise TrajectoryFileError(
            path, "its periodic box is not a right-angled one", "sides along the axes, or no box",
            "Write unwrapped coordinates without a Lattice.",
        )  # fmt: skip
    return np.diag(lattice)


def _same_atoms(path: Path, positions: np.ndarray) -> None:
    """Refuse frames in which two atoms have taken each other's place."""
    for frame in range(1, len(positions)):
        before, now = positions[frame - 1], positions[frame]
        nearest = np.linalg.norm(now[:, None] - before, axis=-1).argmin(1)
        others = np.arange(len(now))
        swapped = (nearest != others) & (nearest[nearest] == others)
        if swapped.any():
            i = int(np.flatnonzero(swapped)[0])
            raise TrajectoryFileError(
                path,
                f"atoms {i + 1} and {nearest[i] + 1} have changed places in frame {frame + 1}",
                "the same order of atoms in each frame",
                "Sort the atoms of every frame alike.",
            )
