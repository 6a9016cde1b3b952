"""The first frame of a flow, from an array file or from a field file on the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.faults import FileError
from scipy.spatial import cKDTree

from rectiflow_pde.mesh import Mesh
from rectiflow_pde.trajectory import FIELDS

if TYPE_CHECKING:
    from jaxtyping import Float

_POSITIONS = ("points", "pos", "mesh_pos")
_SAME_PLACE = 1e-6
"""Of the mesh's size: nodes nearer than this are one."""


def read_first_frame(path: str | Path, mesh: Mesh) -> tuple[Float[np.ndarray, "n 3"], list[str]]:
    """Read u, v (m/s) and p over density (m²/s²) at the nodes of a mesh.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` with ``u``, ``v``, ``p``, each ``(n,)``, or frames of them, of which the first
        is taken; with positions, nodes may stand in any order.
    mesh : Mesh

    Returns
    -------
    frame : ndarray, shape (n, 3)
    notes : list of str
        What was done.

    Raises
    ------
    FileError
        If the file does not hold that, or belongs to another mesh.
    """
    from rectiflow_pde.io.trajectories import read_npz

    path, notes = Path(path), []
    if path.suffix != ".npz":
        raise FileError(
            path, f"is a {path.suffix or 'file without a suffix'}", "an .npz with u, v and p",
            "Save the fields at the nodes with numpy.savez.",
        )  # fmt: skip
    arrays = read_npz(path)
    missing = [name for name in FIELDS if name not in arrays]
    if missing:
        raise FileError(
            path,
            f"holds {', '.join(sorted(arrays))}",
            f"{', '.join(missing)} as well",
            "A first frame is u, v and p at each node.",
        )
    columns = [np.asarray(arrays[name], np.float64) for name in FIELDS]
    if columns[0].ndim == 2:
        notes.append(f"{path.name} holds {len(columns[0])} frames: the first is taken")
        columns = [column[0] for column in columns]
    count = {column.shape for column in columns}
    if count != {(mesh.n_nodes,)}:
        shapes = ", ".join(str(column.shape) for column in columns)
        raise FileError(
            path,
            f"has values of shape {shapes}, and the mesh {mesh.n_nodes} nodes",
            f"{mesh.n_nodes} values each",
            "Give the mesh that the values belong to.",
        )
    frame = np.stack(columns, 1)
    positions = next((arrays[name] for name in _POSITIONS if name in arrays), None)
    if positions is None:
        return frame, notes
    size = float(np.ptp(mesh.points, axis=0).max())
    away, order = cKDTree(np.asarray(positions, np.float64)[:, :2]).query(mesh.points)
    if away.max() > _SAME_PLACE * size:
        notes.append(
            f"{path.name} has no node at {int((away > _SAME_PLACE * size).sum())} of the mesh's "
            f"{mesh.n_nodes}: it belongs to another mesh or cylinder; the values of the nearest "
            "are taken"
        )
    elif (order != np.arange(len(order))).any():
        notes.append(f"the nodes of {path.name} stand in another order: matched by position")
    return frame[order], notes
