"""From files of trajectories to shards of windows, parallel and resumable."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Extracted, Judged, Kept, Preparation, Report, Running
from rectiflow.storage.reading import digest_of
from rectiflow.storage.splits import (
    DEFAULT_FRACTIONS,
    SPLITS,
    check_fractions,
    number_repeated_names,
    split_of,
)
from torch import Tensor

from rectiflow_trajectories.data.prepared import PreparedTrajectories
from rectiflow_trajectories.features import KINDS
from rectiflow_trajectories.io.read import SUFFIXES, files_in, read_trajectories
from rectiflow_trajectories.trajectory import Trajectory
from rectiflow_trajectories.units import check_unit

log = logging.getLogger(__name__)

OWN_UNIT = {"molecule": "angstrom", "molecule-full": "angstrom", "pedestrians": "m"}
"""Of the kinds whose features depend on it."""


@dataclass(frozen=True)
class Windows:
    """What is cut out of each trajectory.

    Parameters
    ----------
    kind : str
        Of the systems, a key of :data:`~rectiflow_trajectories.features.KINDS`.
    given, frames : int
        Frames told and frames to forecast; with 0 given a window is made whole.
    stride : int, optional
        Frames from one window to the next; the length of a window if absent.
    every : int
        Keep one frame of so many.
    most : int, optional
        At most so many windows of a trajectory, evenly spaced.
    unit : str
        Of files that do not tell theirs.
    unwrap : bool
        Follow nodes across the faces of periodic boxes.
    """

    kind: str = "particles"
    given: int = 10
    frames: int = 20
    stride: int | None = None
    every: int = 1
    most: int | None = None
    unit: str = ""
    unwrap: bool = False

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        for name, low in {"given": 0, "frames": 1, "stride": 1, "every": 1, "most": 1}.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}.")
        if self.kind == "pedestrians" and self.given < 2:
            raise ValueError(f"speeds of pedestrians need two given frames, got {self.given}.")

    @property
    def length(self) -> int:
        """Return the frames of a window."""
        return self.given + self.frames

    def starts(self, frames: int) -> list[int]:
        """Return where the windows of a trajectory begin, in frames that are kept."""
        found = list(range(0, frames - self.length + 1, self.stride or self.length))
        if self.most is None or len(found) <= self.most:
            return found
        return [found[i * len(found) // self.most] for i in range(self.most)]


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    windows: Windows | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Turn files of trajectories into shards to train on; see :class:`PreparedTrajectories`.

    A file below a folder named train, valid or test belongs to that split. Of others, trajectories
    with more than one window are split in time, so that no two splits share a frame, and the rest
    by their names. Every window is used or has a line in ``rejected.csv``.

    Parameters
    ----------
    folder : str or Path
        Of files that :func:`~rectiflow_trajectories.io.read_trajectories` reads.
    out : str or Path
        Not inside ``folder``.
    windows : Windows, optional
        What is cut out.
    fractions, seed
        Shares of train, valid and test, and the seed of the split by names.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

    Raises
    ------
    ValueError
        If the arguments are unusable, or ``out`` holds a preparation with others.
    FileNotFoundError
        If there is no such folder, or nothing in it.
    """
    windows = windows or Windows()
    check_fractions(fractions)
    folder, out = places(folder, out, "files of trajectories")
    names = [path.relative_to(folder).as_posix() for path in files_in(folder)]
    if not names:
        raise FileNotFoundError(
            f"{folder} has no trajectories; expected files that end in "
            f"{', '.join(sorted(SUFFIXES))}, those of .npy with names that begin with loc."
        )
    settings = {"kind": "trajectories", "windows": asdict(windows), "fractions": dict(fractions)}
    preparation = Preparation(
        unit="window",
        columns=PreparedTrajectories.columns,
        refusal=("file", "trajectory", "reason"),
        judge=partial(
            windows_of, folder=folder, windows=windows, fractions=dict(fractions), seed=seed
        ),
        finish=_finish,
        settings=settings | {"seed": seed, "inputs": digest_of(names)},
        per_chunk=1,
    )
    return preparation.run(names, out, **run)


def windows_of(
    name: str, folder: Path, windows: Windows, fractions: dict[str, float], seed: int
) -> Judged:
    """Cut the trajectories of a file, or say why not; never raises on a bad file."""
    judged = Judged()
    try:
        found = read_trajectories(folder / name, unit=windows.unit, unwrap=windows.unwrap)
    except (ValueError, OSError) as error:
        reason = str(getattr(error, "reason", error))
        return Judged(refused=[{"file": name, "trajectory": "", "reason": reason}])
    named = next((part for part in Path(name).parts if part in SPLITS), "")
    unit = OWN_UNIT.get(windows.kind, found[0].unit if found else "")
    for number, trajectory in enumerate(found):
        label = f"{Path(name).with_suffix('').as_posix()}_{number}"
        label = label if len(found) > 1 else label.rpartition("_")[0]
        kept = trajectory.measured_in(unit).between(0, trajectory.frames, windows.every)
        starts = windows.starts(kept.frames)
        if not starts:
            reason = f"{kept.frames} frames; expected at least {windows.length}"
            judged.refused.append({"file": name, "trajectory": number, "reason": reason})
        for start in starts:
            if named or len(starts) == 1:
                split = named or split_of(label, fractions, seed=seed)
            else:
                split = _in_time(start, windows.length, kept.frames, fractions)
            try:
                if not split:
                    raise ValueError("the window lies across the splits in time; expected in one")
                record, nodes = record_of(kept.between(start, start + windows.length), windows)
            except ValueError as error:
                told = f"window at frame {start * windows.every}: {error}"
                judged.refused.append({"file": name, "trajectory": number, "reason": told})
                continue
            row: dict[str, Any] = {
                "name": label if len(starts) == 1 else f"{label}@{start * windows.every}"
            }
            row |= {"source": name, "split": split, "kind": windows.kind, "unit": unit}
            row |= {"start": start * windows.every, "given": windows.given, "nodes": nodes}
            row |= {"frames": windows.frames, "dimensions": kept.dimensions}
            judged.accepted.append((record, row))
    return judged


def record_of(window: Trajectory, windows: Windows) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of a window, and how many nodes it has.

    Raises
    ------
    ValueError
        When it has gaps, is periodic, or features cannot be made.
    """
    whole, _ = window.complete()
    told = KINDS[windows.kind].tell(whole, windows.given, windows.frames)
    positions = whole.positions - origin(whole.positions, windows.given)
    tensors = {"positions": positions.swapaxes(0, 1), "nodes": told.nodes}
    tensors["edges"] = told.edges.reshape(whole.nodes**2, -1)
    tensors["linked"] = told.linked.ravel()
    kinds = {"linked": np.uint8}
    return {
        name: torch.from_numpy(np.array(value, dtype=kinds.get(name, np.float32)))
        for name, value in tensors.items()
    }, whole.nodes


def origin(positions: np.ndarray, given: int) -> np.ndarray:
    """Return the mean place in the last given frame, or in all frames where none is given."""
    frames = positions[given - 1 : given] if given else positions
    found: np.ndarray = frames.mean((0, 1))
    return found


def _in_time(start: int, length: int, frames: int, fractions: Mapping[str, float]) -> str:
    """Return the split that a window lies in whole; nothing if it lies across two."""
    edge = 0.0
    for split in SPLITS:
        first, edge = edge, edge + fractions.get(split, 0.0) * frames
        if round(first) <= start and start + length <= round(edge):
            return split
    return ""


def _finish(found: Extracted) -> Kept:
    """Keep the windows of one number of dimensions."""
    number_repeated_names(found.rows)
    usual = Counter(row["dimensions"] for row in found.rows).most_common(1)
    kept = []
    for index, row in enumerate(found.rows):
        if row["dimensions"] == usual[0][0]:
            kept.append(index)
            continue
        reason = f"{row['dimensions']} dimensions; expected {usual[0][0]}, as most have"
        found.rejected.append({"file": row["source"], "trajectory": "", "reason": reason})
    sizes = [found.rows[index]["nodes"] for index in kept]
    return Kept(kept, {"nodes": float(np.mean(sizes)) if sizes else 0.0})
