"""Trajectories for ParaView: VTU files with a PVD list, or one XDMF with its HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.files import staging, whole_file, write_text

if TYPE_CHECKING:
    from rectiflow_pde.mesh import Mesh
    from rectiflow_pde.trajectory import Trajectory


def write_trajectory(trajectory: Trajectory, path: str | Path) -> list[Path]:
    """Write a trajectory, in the format that the suffix names.

    Parameters
    ----------
    trajectory : Trajectory
    path : str or Path
        ``.pvd`` writes a VTU file for each frame beside it, ``.xdmf`` an HDF5 file; ``.vtu`` the
        first frame alone.

    Returns
    -------
    list of Path
        The files, ``path`` last: it appears when all others are there.

    Raises
    ------
    ValueError
        If the suffix is another.
    """
    path = Path(path)
    if path.suffix == ".vtu":
        _write_vtu(trajectory, 0, path)
        return [path]
    if path.suffix == ".pvd":
        return _write_pvd(trajectory, path)
    if path.suffix == ".xdmf":
        return _write_xdmf(trajectory, path)
    raise ValueError(f"unknown suffix {path.suffix!r}, got {path}; expected .vtu, .pvd or .xdmf.")


def _cells(mesh: Mesh) -> list[tuple[str, np.ndarray]]:
    return [("triangle", mesh.triangles)]


def _points(mesh: Mesh) -> np.ndarray:
    return np.column_stack([mesh.points, np.zeros(mesh.n_nodes)])


def _data(trajectory: Trajectory, frame: int) -> dict[str, np.ndarray]:
    u, v, p = (trajectory.fields[name][frame] for name in ("u", "v", "p"))
    velocity = np.stack([u, v, np.zeros_like(u)], 1)
    return {"U": velocity, "p": np.asarray(p), "node_type": trajectory.mesh.node_type}


def _write_vtu(trajectory: Trajectory, frame: int, path: Path) -> None:
    import meshio

    mesh = trajectory.mesh
    made = meshio.Mesh(_points(mesh), _cells(mesh), point_data=_data(trajectory, frame))
    with whole_file(path, sync=False) as part:
        made.write(part, file_format="vtu")


def _write_pvd(trajectory: Trajectory, path: Path) -> list[Path]:
    digits = len(str(len(trajectory.times)))
    files = []
    for frame in range(len(trajectory.times)):
        files.append(path.with_name(f"{path.stem}_{frame:0{digits}d}.vtu"))
        _write_vtu(trajectory, frame, files[-1])
    lines = [
        f'  <DataSet timestep="{time:.12g}" file="{file.name}"/>'
        for time, file in zip(trajectory.times.tolist(), files, strict=True)
    ]
    head = '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1">\n <Collection>'
    write_text(path, "\n".join([head, *lines, " </Collection>", "</VTKFile>", ""]))
    return [*files, path]


def _write_xdmf(trajectory: Trajectory, path: Path) -> list[Path]:
    import meshio

    data = path.with_suffix(".h5")
    with staging(path.parent) as own:
        with meshio.xdmf.TimeSeriesWriter(str(own / path.name)) as writer:
            writer.write_points_cells(_points(trajectory.mesh), _cells(trajectory.mesh))
            for frame, time in enumerate(trajectory.times.tolist()):
                writer.write_data(time, point_data=_data(trajectory, frame))
        # Where meshio puts the values depends on the folder it is called from.
        found = next(p for p in (own / data.name, Path(data.name)) if p.is_file())
        found.replace(data)
        (own / path.name).replace(path)
    return [data, path]
