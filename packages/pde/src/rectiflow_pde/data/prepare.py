"""From files of flows to shards: units checked, meshes made sound, each refusal with its reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from rectiflow.storage.faults import FileError
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Extracted, Judged, Kept, Preparation, Report, Running
from rectiflow.storage.reading import digest_of
from rectiflow.storage.shards import MANIFEST
from rectiflow.storage.splits import DEFAULT_FRACTIONS, SPLITS, check_fractions

from rectiflow_pde.data.prepared import COLUMNS, PreparedFlows, pack
from rectiflow_pde.data.records import finish, row_of
from rectiflow_pde.io.meshes import Boundaries
from rectiflow_pde.io.raw import RawFlow, trajectory_of
from rectiflow_pde.io.series import FieldNames, read_series
from rectiflow_pde.io.trajectories import read_trajectories
from rectiflow_pde.trajectory import Trajectory
from rectiflow_pde.units import Units

log = logging.getLogger(__name__)

NOTES = "notes.csv"
"""What was done to files beside reading them."""

SUFFIXES = (".npz", ".h5", ".hdf5", ".pvd", ".series", ".xdmf", ".vtu", ".vtk", ".tfrecord")


@dataclass(frozen=True)
class Reading:
    """How files are to be read.

    Attributes
    ----------
    units : Units
    names : FieldNames
    boundaries : Boundaries
    resample : float, optional
        Seconds between frames, where they are not even.
    """

    units: Units = field(default_factory=Units)
    names: FieldNames = field(default_factory=FieldNames)
    boundaries: Boundaries = field(default_factory=Boundaries)
    resample: float | None = None


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    reading: Reading | None = None,
    splits: Mapping[str, str] | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Turn files of flows into shards to train on, in SI units.

    Every flow of every file is either accepted or has a line in ``rejected.csv``; what was done
    to a file stands in ``notes.csv``.

    Parameters
    ----------
    folder : str or Path
        Trajectories (npz, HDF5), series (PVD, ``.series``, XDMF, folders of numbered VTU files),
        single VTU files, and folders of prepared flows; or one such file.
    out : str or Path
        Receives the shards; see :class:`~rectiflow_pde.data.PreparedFlows`.
    reading : Reading
        Units above all: what a file does not say and nobody else does is refused.
    splits : mapping of str to str, optional
        Split of flows by name; the rest by ``fractions``.
    fractions, seed
        Shares of train, valid and test, by a hash of the name.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If the arguments are unusable.
    """
    reading = reading or Reading()
    check_fractions(fractions)
    splits = dict(splits or {})
    if strange := set(splits.values()) - set(SPLITS):
        raise ValueError(f"unknown splits {sorted(strange)}; known: {', '.join(SPLITS)}.")
    folder, out = places(folder, out, "files of flows", or_file=True)
    root = folder if folder.is_dir() else folder.parent
    inputs = list(inputs_in(folder))
    settings: dict[str, Any] = {
        "kind": "flows of files",
        "reading": _plain(reading),
        "splits": digest_of(sorted(splits.items())),
        "fractions": dict(fractions),
        "seed": seed,
        "inputs": digest_of([str(path.relative_to(root)) for path in inputs]),
        "units": "m, s, m/s; pressure over density in m²/s²",
    }
    notes: tuple[str, ...] = ("file", "note")
    preparation = Preparation(
        unit="flow",
        columns=COLUMNS,
        refusal=("file", "reason"),
        judge=partial(_judge, root=root, reading=reading, splits=splits),
        finish=partial(_finish, fractions=fractions, seed=seed, columns=notes),
        settings=settings,
        per_chunk=4,
    )
    return preparation.run(inputs, out, **run)


def _plain(reading: Reading) -> dict[str, Any]:
    """Return what tells one reading from another, as JSON has it."""
    told = asdict(reading)
    told["boundaries"]["given"] = {
        name: int(kind) for name, kind in reading.boundaries.given.items()
    }
    return told


def inputs_in(folder: Path) -> Iterator[Path]:
    """Yield what is to be read of a folder, in order: a series as one, not its files as well."""
    if folder.is_file() or (folder / MANIFEST).is_file():
        yield folder
        return
    own = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    lists = [p for p in own if p.suffix in (".pvd", ".series")]
    files = [p for p in own if p.is_file() and p.suffix in SUFFIXES and p not in lists]
    series = [p for p in files if p.suffix in (".vtu", ".vtk")]
    yield from lists
    beside = {p.stem for p in files if p.suffix == ".xdmf"}
    yield from (
        p for p in files if p not in series and not (p.suffix == ".h5" and p.stem in beside)
    )
    if series and not lists:
        if len(series) > 1 and all(p.stem[-1:].isdigit() for p in series):
            yield folder
        else:
            yield from series
    for path in own:
        if path.is_dir():
            yield from inputs_in(path)


def _judge(path: Path, root: Path, reading: Reading, splits: Mapping[str, str]) -> Judged:
    """Read all flows of one input; never raises on a bad one."""
    judged = Judged()
    told = str(path.relative_to(root)) if path != root else path.name
    try:
        for found in flows_of(path, reading):
            try:
                _accept(judged, found, told, reading, splits)
            except (ValueError, OSError) as error:
                judged.refused.append(_refusal(told, error))
    except (ValueError, OSError) as error:
        judged.refused.append(_refusal(told, error))
    except Exception as error:  # one odd file must not end a preparation of thousands
        log.exception("%s could not be prepared", path)
        reason = f"unforeseen {type(error).__name__}: {error}"
        judged.refused.append({"file": told, "reason": reason})
    return judged


def _refusal(file: str, error: Exception) -> dict[str, str]:
    reason = f"{error.reason}. {error.hint}" if isinstance(error, FileError) else str(error)
    return {"file": file, "reason": reason}


Found = RawFlow | FileError | tuple[Trajectory, dict[str, Any]]


def flows_of(path: Path, reading: Reading) -> Iterator[Found]:
    """Yield the flows of one input, or why one is none."""
    if (path / MANIFEST).is_file():
        prepared = PreparedFlows(path)
        for i in range(len(prepared)):
            yield prepared[i], {key: prepared.table[key][i] for key in ("name", "split", "regime")}
    elif path.suffix in (".npz", ".h5", ".hdf5", ".tfrecord"):
        yield from read_trajectories(path)
    else:
        yield read_series(path, reading.units, names=reading.names, boundaries=reading.boundaries)


def _accept(
    judged: Judged, found: Found, file: str, reading: Reading, splits: Mapping[str, str]
) -> None:
    if isinstance(found, FileError):
        raise found
    if isinstance(found, tuple):
        trajectory, told = found
        notes: list[str] = []
        name, split, regime = (str(told[key]) for key in ("name", "split", "regime"))
    else:
        trajectory, notes = trajectory_of(found, reading.units, every=reading.resample)
        name = Path(file).stem + (f"_{found.name}" if found.name else "")
        split, regime = found.split, found.regime
    split = splits.get(name, split)
    if split and split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}.")
    row = row_of(trajectory, name, file, regime=regime, split=split)
    row["notes"] = notes
    judged.accepted.append((pack(trajectory), row))


def _finish(
    found: Extracted, fractions: Mapping[str, float], seed: int, columns: tuple[str, ...]
) -> Kept:
    kept = finish(found, fractions, seed)
    notes = [{"file": row["source"], "note": note} for row in found.rows for note in row["notes"]]
    kinds = {note["note"] for note in notes}
    for note in sorted(kinds)[:20]:
        log.info("%s", note)
    return Kept(kept.rows, kept.counts, {**kept.tables, NOTES: (columns, notes)})
