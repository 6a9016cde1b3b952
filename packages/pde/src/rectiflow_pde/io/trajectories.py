"""Files of whole trajectories: MeshGraphNets' as TFRecord, npz and HDF5, and ragged npz files.

Three forms are known by their names:

* one flow, or many in one TFRecord file: ``mesh_pos, cells, node_type, velocity, pressure``, and
  ``time``, ``viscosity``, ``density`` where it has them; the mesh may be repeated along time;
* many flows in one HDF5 file: groups ``0, 1, ...`` with ``u, v, pressure, mesh_pos, cells,
  node_type`` and ``metadata``, as Text2PDE's data;
* many flows in one npz: flat arrays with ``node_offset`` and ``cell_offset``, and ``meta`` as JSON.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.storage.faults import FileError

from rectiflow_pde.io.cells import RawMesh
from rectiflow_pde.io.raw import RawFlow
from rectiflow_pde.io.tfrecord import read_tfrecord

_NAMES = {
    "points": ("mesh_pos", "pos", "points"),
    "cells": ("cells", "triangles"),
    "node_type": ("node_type",),
    "pressure": ("pressure", "p"),
    "times": ("time", "times"),
}
_SCALARS = {"viscosity": ("viscosity", "nu"), "density": ("density", "rho")}


def read_trajectories(path: str | Path) -> Iterator[RawFlow | FileError]:
    """Yield every flow of a file, or why it cannot be one.

    Raises
    ------
    FileError
        If the file cannot be read at all.
    """
    path = Path(path)
    if path.suffix == ".npz":
        yield from _of_npz(path)
    elif path.suffix == ".tfrecord":
        for i, arrays in enumerate(read_tfrecord(path)):
            yield _one(path, str(i), arrays)
    else:
        yield from _of_h5(path)


def _of_npz(path: Path) -> Iterator[RawFlow | FileError]:
    arrays = read_npz(path)
    if "node_offset" in arrays:
        yield from _ragged(path, arrays)
    else:
        yield _one(path, "", arrays)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file; pickled ones are refused.

    Raises
    ------
    FileError
        If it is cut short or damaged, or holds objects.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        if "pickle" not in str(error):
            raise _damaged(path, error) from error
        raise FileError(
            path,
            "its arrays are Python objects, which need pickle",
            "plain numbers",
            "Write ragged arrays flat with their offsets, or one file for each trajectory.",
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> FileError:
    return FileError(
        path,
        f"it is cut short (truncated) or damaged ({error})",
        "a whole file",
        "Copy or write it again.",
    )


def _ragged(path: Path, arrays: Mapping[str, np.ndarray]) -> Iterator[RawFlow | FileError]:
    """Flows of flat arrays; fields are ``(k, f)``."""
    nodes, cells = arrays["node_offset"], arrays["cell_offset"]
    told = json.loads(str(arrays["meta"])) if "meta" in arrays else [{}] * (len(nodes) - 1)
    for i, meta in enumerate(told):
        s, c = slice(*nodes[i : i + 2]), slice(*cells[i : i + 2])
        one = {name: arrays[name][s] for name in ("pos", "node_type")}
        one |= {name: arrays[name][s].T for name in ("u", "v", "p")}
        one |= {"cells": arrays["cells"][c], "time": arrays["time"]}
        yield _one(path, str(meta.get("id", i)), one, meta)


def _of_h5(path: Path) -> Iterator[RawFlow | FileError]:
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _damaged(path, error) from error
    with file:
        groups = sorted(
            (name for name in file if isinstance(file[name], h5py.Group)),
            key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name),
        )
        if not groups and any(name in file for name in _NAMES["points"]):
            groups = ["/"]
        if not groups:
            raise FileError(
                path, f"it has no trajectories, got {sorted(file)}", "groups 0, 1, ...", "See docs."
            )
        for name in groups:
            try:
                group = file[name]
                arrays = {k: v[()] for k, v in group.items() if isinstance(v, h5py.Dataset)}
                meta = {k: v[()] for k, v in group.get("metadata", {}).items()}
            except (OSError, KeyError, RuntimeError) as error:
                yield _damaged(path, error)
                continue
            yield _one(path, name.strip("/"), arrays, _of_text2pde(meta, arrays))


def _of_text2pde(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Metadata of Text2PDE's files under our names."""
    found: dict[str, Any] = {}
    for ours, theirs in {"radius": "radius", "center": "center"}.items():
        if theirs in meta:
            found[ours] = np.asarray(meta[theirs]).tolist()
    if "t_end" in meta and "u" in arrays:
        found["time"] = np.linspace(0, float(meta["t_end"]), len(arrays["u"])).tolist()
    return found


def _one(
    path: Path, name: str, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any] | None = None
) -> RawFlow | FileError:
    """One flow of its arrays."""
    meta = meta or {}
    where = f"trajectory {name}: " if name else ""

    def pick(role: str) -> np.ndarray | None:
        return next((arrays[key] for key in _NAMES[role] if key in arrays), None)

    points, cells, kinds, pressure = map(pick, ("points", "cells", "node_type", "pressure"))
    if "velocity" in arrays:
        velocity = np.asarray(arrays["velocity"])
    elif {"u", "v"} <= arrays.keys():
        velocity = np.stack([arrays["u"], arrays["v"]], -1)
    else:
        velocity = None
    parts = {"mesh_pos": points, "cells": cells, "node_type": kinds}
    parts |= {"velocity (or u and v)": velocity, "pressure": pressure}
    missing = [key for key, value in parts.items() if value is None]
    if missing:
        return FileError(
            path,
            f"{where}it lacks {', '.join(missing)}, got {', '.join(sorted(arrays))}",
            "a mesh, node types, velocity and pressure",
            "Add them under these names.",
        )
    assert points is not None and cells is not None and kinds is not None
    assert velocity is not None and pressure is not None
    if points.ndim == 3:  # every array repeated along time
        same = (points == points[:1]).all() and (cells == cells[:1]).all()
        if not same:
            return FileError(
                path, f"{where}its mesh changes over time", "one mesh for all frames", "Remesh it."
            )
        points, cells, kinds = points[0], cells[0], kinds[0]
    pressure = np.asarray(pressure)
    pressure = pressure[..., 0] if pressure.ndim == 3 else pressure
    n = len(points)
    if velocity.shape != (*pressure.shape, 2) or pressure.shape[1:] != (n,) or np.size(kinds) != n:
        return FileError(
            path,
            f"{where}velocity {velocity.shape}, pressure {pressure.shape} and node types "
            f"{np.shape(kinds)} do not fit {n} nodes",
            f"(frames, {n}, 2), (frames, {n}) and ({n},)",
            "Write the fields at the mesh's nodes.",
        )
    times = pick("times")
    if times is None and "time" in meta:
        times = np.asarray(meta["time"])
    mesh = RawMesh(path, points, [("triangle", np.asarray(cells, np.int64))], [np.array([])])
    return RawFlow(
        path,
        name,
        mesh,
        velocity,
        pressure,
        times,
        kinds,
        _known(arrays, meta),
        str(meta.get("caption", "")),
        str(meta.get("split", "")),
        str(meta.get("regime", "unknown")),
    )


def _known(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for ours, keys in _SCALARS.items():
        for key in keys:
            if meta.get(key) is not None:
                found[ours] = float(meta[key])
            elif key in arrays and np.size(arrays[key]) == 1:
                found[ours] = float(arrays[key])
    names = {"radius": "radius", "u_mean": "u_mean", "strouhal": "strouhal", "cd_mean": "cd_mean"}
    names |= {"cl_amplitude": "cl_amp"}
    for ours, theirs in names.items():
        if meta.get(theirs) is not None:
            found[ours] = float(np.asarray(meta[theirs]).ravel()[0])
    if meta.get("center") is not None:
        found["centre_x"], found["centre_y"] = map(float, meta["center"])
    if {"strouhal", "u_mean", "radius"} <= found.keys():
        found["frequency"] = found["strouhal"] * found["u_mean"] / (2 * found["radius"])
    return found
