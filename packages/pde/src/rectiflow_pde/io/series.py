"""Series of files over time: PVD, ``.vtu.series``, numbered VTU files, and XDMF."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_text

from rectiflow_pde.io.cells import RawMesh, clean
from rectiflow_pde.io.meshes import Boundaries, MeshFile, guarded, read_mesh, with_kinds
from rectiflow_pde.io.raw import RawFlow, uneven

if TYPE_CHECKING:
    from rectiflow_pde.units import Units

_VELOCITY = ("U", "u", "velocity", "Velocity")
_PRESSURE = ("p", "pressure", "Pressure", "P")


@dataclass(frozen=True)
class FieldNames:
    """Which fields of a file are velocity and pressure; None takes the one with a usual name."""

    velocity: str | None = None
    pressure: str | None = None

    def pick(self, path: Path, fields: Mapping[str, np.ndarray]) -> tuple[str, str]:
        """Return the names of both.

        Raises
        ------
        FileError
            If there is none, or several could be meant.
        """
        vectors = [name for name, values in fields.items() if values.ndim == 2]
        scalars = [name for name, values in fields.items() if values.ndim == 1]
        return (
            _pick(path, "velocity", self.velocity, _VELOCITY, vectors, fields),
            _pick(path, "pressure", self.pressure, _PRESSURE, scalars, fields),
        )


def _pick(
    path: Path,
    role: str,
    given: str | None,
    usual: Sequence[str],
    able: Sequence[str],
    fields: Iterable[str],
) -> str:
    names = ", ".join(fields) or "none"
    if given is not None:
        if given in able:
            return given
        raise FileError(
            path, f"it has no {role} named {given!r}, got {names}", "one of them", "See --help."
        )
    exact = [name for name in usual if name in able]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise FileError(
            path,
            f"several fields could be the {role}: {', '.join(exact)}",
            "one of them",
            f"Name it with --{role} NAME.",
        )
    raise FileError(
        path,
        f"it has no {role} under a usual name ({', '.join(usual)}), got {names}",
        f"a field of {role}",
        f"Name it with --{role} NAME, or write it.",
    )


def read_series(
    path: str | Path,
    units: Units,
    *,
    names: FieldNames | None = None,
    boundaries: Boundaries | None = None,
) -> RawFlow:
    """Read a series, or one file as a series of one frame.

    Parameters
    ----------
    path : str or Path
        A ``.pvd``, ``.series`` or ``.xdmf`` file, a folder of numbered VTU files, or one mesh
        file with fields.
    units : Units
        ``time_step`` is the time between numbers in the names of files without times.
    names : FieldNames
    boundaries : Boundaries

    Returns
    -------
    RawFlow
        Its notes say when times are not even.

    Raises
    ------
    FileError
        If a file is missing or cannot be read, the mesh changes, or times cannot be told.
    """
    path, names = Path(path), names or FieldNames()
    if path.suffix == ".xdmf" and _is_collection(path):
        return _of_xdmf(path, units, names, boundaries)
    entries = _entries(path, units)
    first: MeshFile | None = None
    velocity, pressure = [], []
    for _, file in entries:
        if not file.is_file():
            raise FileError(
                path,
                f"{file.name} is listed but not there",
                "all files of the series",
                "Copy it beside the list, or take it off.",
            )
        found = read_mesh(file, scale=units.scale, boundaries=boundaries)
        u, p = names.pick(file, found.fields)
        if first is None:
            first, of = found, frozenset({u, p}) & found.averaged
        elif not _is_same(first, found):
            raise FileError(
                file,
                "its mesh is another than that of the first frame",
                "one mesh for all",
                "Interpolate the frames to one mesh.",
            )
        velocity.append(found.fields[u][:, :2])
        pressure.append(found.fields[p])
    assert first is not None
    times = np.array([time for time, _ in entries], np.float64)
    notes = list(first.notes)
    if of:
        notes.append(f"{', '.join(sorted(of))} of cells are averaged to the nodes: walls may slip")
    if odd := uneven(times):
        notes.append(f"times are irregular, or some are missing: {odd}")
    return RawFlow(path, "", first.mesh, np.stack(velocity), np.stack(pressure), times, notes=notes)


def _is_same(a: MeshFile, b: MeshFile) -> bool:
    return (
        a.mesh.points.shape == b.mesh.points.shape
        and np.array_equal(a.mesh.triangles, b.mesh.triangles)
        and np.allclose(a.mesh.points, b.mesh.points, rtol=0, atol=1e-6 * np.ptp(a.mesh.points))
    )


def _entries(path: Path, units: Units) -> list[tuple[float, Path]]:
    """Return times and files of a series, in the order of time."""
    if path.is_dir():
        return _numbered(path, units)
    if path.suffix == ".pvd":
        found = _of_pvd(path)
    elif path.suffix == ".series":
        found = _of_json(path)
    else:
        return [(0.0, path)]
    if not found:
        raise FileError(path, "it lists no files", "frames with their times", "Write it again.")
    return sorted(found, key=lambda entry: entry[0])


def _of_pvd(path: Path) -> list[tuple[float, Path]]:
    try:
        root = xml.fromstring(read_text(path))
        sets = [each.attrib for each in root.iter("DataSet")]
        found = [(float(each["timestep"]), path.parent / each["file"]) for each in sets]
    except (xml.ParseError, KeyError, ValueError) as error:
        raise FileError(
            path, f"it is no PVD ({error})", "a collection", "Write it again."
        ) from error
    times = [time for time, _ in found]
    if len(set(times)) < len(times):
        raise FileError(
            path,
            f"{len(times)} files have {len(set(times))} times: it is partitioned, or frames repeat",
            "one file for each time",
            "Merge the parts, such as with ParaView's Merge Blocks.",
        )
    return found


def _of_json(path: Path) -> list[tuple[float, Path]]:
    try:
        files = json.loads(read_text(path))["files"]
        return [(float(each["time"]), path.parent / each["name"]) for each in files]
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            path, f"it is no list of files ({error!r})", "ParaView's file series", "Write it again."
        ) from error


def _numbered(folder: Path, units: Units) -> list[tuple[float, Path]]:
    files = [(re.search(r"(\d+)$", p.stem), p) for p in folder.glob("*.vtu")]
    numbered = sorted((int(found[1]), p) for found, p in files if found)
    if not numbered:
        raise FileError(folder, "it has no numbered VTU files", "flow_0.vtu, ...", "See docs.")
    if units.time_step is None:
        raise FileError(
            folder,
            f"{len(numbered)} files are numbered {numbered[0][0]} to {numbered[-1][0]} and have no "
            "times",
            "the time step between two numbers",
            "Give --time-step DT in seconds.",
        )
    return [(number * units.time_step, file) for number, file in numbered]


def _is_collection(path: Path) -> bool:
    return path.is_file() and 'GridType="Collection"' in read_text(path)


def _of_xdmf(path: Path, units: Units, names: FieldNames, boundaries: Boundaries | None) -> RawFlow:
    import meshio

    def read() -> tuple[RawMesh, list[float], list[dict[str, np.ndarray]]]:
        with meshio.xdmf.TimeSeriesReader(str(path)) as reader:
            points, cells = reader.read_points_cells()
            steps = [reader.read_data(k) for k in range(reader.num_steps)]
        blocks = [(block.type, np.asarray(block.data)) for block in cells]
        blank = [np.full(len(data), "", dtype=object) for _, data in blocks]
        return RawMesh(path, points, blocks, blank), [s[0] for s in steps], [s[1] for s in steps]

    for data in _h5_files(path):
        if not (path.parent / data).is_file():
            raise FileError(
                path,
                f"its values are in {data}, which is not beside it",
                f"{data} there",
                "Copy it beside the XDMF file.",
            )
    raw, times, frames = guarded(path, read)
    cleaned = clean(raw, units.scale or 1.0)
    mesh, told = with_kinds(path, cleaned, boundaries)
    u, p = names.pick(path, {k: np.asarray(v) for k, v in frames[0].items()})
    velocity = np.stack([frame[u][cleaned.source][:, :2] for frame in frames])
    pressure = np.stack([frame[p][cleaned.source] for frame in frames])
    notes = [*cleaned.notes, *told]
    if odd := uneven(np.array(times)):
        notes.append(f"times are irregular, or some are missing: {odd}")
    return RawFlow(path, "", mesh, velocity, pressure, np.array(times), notes=notes)


def _h5_files(path: Path) -> Iterator[str]:
    yield from dict.fromkeys(re.findall(r">\s*([^<>:\s]+\.h5):", read_text(path)))
