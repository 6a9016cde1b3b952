"""Scans read: parts of meshes, point clouds, and depth maps with their camera."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.storage.faults import storing
from rectiflow.storage.reading import read_bounded

from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.read import SUFFIXES, TO_Y_UP, Axis, parse_mesh, read_mesh
from rectiflow_shape.scan import Scan

if TYPE_CHECKING:
    from jaxtyping import Float

DEPTH_UNIT = 1e-3
"""Of a step of a depth map in PNG: millimetres to metres, as sensors write them."""


def read_scan(
    path: str | Path,
    *,
    up: Axis | None = None,
    eye: Float[np.ndarray, " 3"] | None = None,
    intrinsics: Sequence[float] | None = None,
    unit: float = DEPTH_UNIT,
    seed: int = 0,
) -> Scan:
    """Read what was scanned of an object.

    Parameters
    ----------
    path : str or Path
        A mesh, of which points are drawn; points in PLY or OBJ, PLY with ``nx``, ``ny`` and
        ``nz``; NPZ with ``points (n, 3)`` and, it may be, ``normals (n, 3)``, or with
        ``depth (h, w)``, ``intrinsics (3, 3)`` and, it may be, ``pose (4, 4)``; or a depth map in
        PNG of 16 bits, 0 where nothing was seen.
    up : {"x", "y", "z"}, optional
        Which axis of the file is up; y if absent.
    eye : ndarray, shape (3,), optional
        Where points without normals were seen from, in the file's axes.
    intrinsics : four floats, optional
        Focal lengths and centre of the PNG's camera in pixels: fx, fy, cx, cy.
    unit : float
        Of a step of a PNG.
    seed : int
        Of the points drawn on a mesh.

    Raises
    ------
    FileError
        When the file is no such thing, or lacks what is said above.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    kinds = [*sorted(SUFFIXES), ".npz", ".png"]
    if suffix not in kinds:
        raise MeshFileError(
            path,
            f"its name ends in {suffix or 'nothing'}",
            f"one of {', '.join(kinds)}",
            "Save the scan as PLY or NPZ.",
        )
    turn = TO_Y_UP[up or "y"]
    try:
        if suffix == ".png":
            return _turned(_picture(path, intrinsics, unit), turn)
        if suffix == ".npz":
            return _turned(_arrays(path, eye), turn)
        parsed = parse_mesh(path)
        if len(parsed.faces):
            mesh, _ = read_mesh(path, up=up)
            return Scan.of_mesh(mesh, torch.Generator().manual_seed(seed))
        return _turned(_points(path, parsed.vertices, parsed.normals, eye), turn)
    except MeshFileError:
        raise
    except ValueError as error:
        raise MeshFileError(path, str(error), "a scan", "Save it again.") from error


def _turned(scan: Scan, turn: np.ndarray) -> Scan:
    return Scan(scan.points @ turn.T, scan.normals @ turn.T)


def _points(path: Path, points: Any, normals: Any, eye: Any) -> Scan:
    if normals is not None:
        return Scan(points, normals)
    if eye is None:
        raise MeshFileError(
            path,
            "its points have no normals, and it is not told where they were seen from",
            "normals, or the place of the sensor",
            "Save normals as well (nx, ny, nz in PLY), or give the place (--eye X Y Z).",
        )
    return Scan.of_points(points, eye)


def _arrays(path: Path, eye: Any) -> Scan:
    with storing(path):
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
        except (ValueError, EOFError, KeyError) as error:
            raise ValueError(f"it is no NPZ of numbers ({error})") from error
    if "depth" in arrays and "intrinsics" in arrays:
        return Scan.of_depth(arrays["depth"], arrays["intrinsics"], arrays.get("pose"))
    if "points" in arrays:
        return _points(path, arrays["points"], arrays.get("normals"), eye)
    raise MeshFileError(
        path,
        f"it holds {', '.join(sorted(arrays)) or 'nothing'}",
        "points, or depth and intrinsics",
        "Name the arrays so.",
    )


def _picture(path: Path, intrinsics: Sequence[float] | None, unit: float) -> Scan:
    import io

    from PIL import Image, UnidentifiedImageError

    if intrinsics is None:
        raise MeshFileError(
            path,
            "a depth map says nothing of its camera",
            "focal lengths and centre in pixels",
            "Give them (--intrinsics FX FY CX CY).",
        )
    if not unit > 0:
        raise ValueError(f"the unit of a depth map must be positive, got {unit:g}")
    try:
        with Image.open(io.BytesIO(read_bounded(path))) as image:
            depth = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"it is no picture ({error})") from error
    if depth.ndim != 2 or depth.dtype == np.uint8:
        raise MeshFileError(
            path,
            f"it has {depth.dtype} values of shape {depth.shape}",
            "one channel of 16 bits, the depth in steps",
            "Save the depth itself, not a picture of it.",
        )
    fx, fy, cx, cy = intrinsics
    return Scan.of_depth(depth * unit, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]))
