"""The first frame that a simulation starts from, at the nodes of its mesh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.faults import FileError

from rectiflow_pde.io.cells import SAME_PLACE
from rectiflow_pde.io.meshes import Boundaries, read_mesh
from rectiflow_pde.io.series import FieldNames
from rectiflow_pde.io.trajectories import read_npz
from rectiflow_pde.mesh import Mesh, NodeType

if TYPE_CHECKING:
    from jaxtyping import Float

_SLIP = 0.05  # of the greatest speed: more on a wall is a frame of another geometry
_POSITIONS = ("pos", "mesh_pos", "points")


def read_first_frame(path: str | Path, mesh: Mesh) -> tuple[Float[np.ndarray, "n 3"], list[str]]:
    """Read ``u, v, p`` at the nodes of a mesh, in SI units.

    Parameters
    ----------
    path : str or Path
        An npz file with ``u``, ``v``, ``p``, each ``(n,)`` or ``(frames, n)``, and ``pos (n, 2)``
        where the order of nodes may be another; or a mesh file with fields.
    mesh : Mesh

    Returns
    -------
    ndarray, shape (n, 3), float64
    list of str
        What was done, and what is odd.

    Raises
    ------
    FileError
        If it does not fit the mesh, or values are not finite.
    """
    path, notes = Path(path), list[str]()
    if path.suffix == ".npz":
        arrays = read_npz(path)
        missing = [name for name in "uvp" if name not in arrays]
        if missing:
            raise FileError(
                path,
                f"it lacks {', '.join(missing)}, got {', '.join(arrays) or 'nothing'}",
                "u, v and p",
                "Write all three.",
            )
        values = np.stack([np.asarray(arrays[name], np.float64) for name in "uvp"], -1)
        places = next((arrays[name] for name in _POSITIONS if name in arrays), None)
    else:
        found = read_mesh(path, boundaries=Boundaries(infer=True))
        u, p = FieldNames().pick(path, found.fields)
        values = np.column_stack([found.fields[u][:, :2], found.fields[p]]).astype(np.float64)
        places = found.mesh.points
    if values.ndim == 3:
        notes.append(f"of {len(values)} frames the first is taken")
        values = values[0]
    if len(values) != mesh.n_nodes:
        raise FileError(
            path,
            f"it has {len(values)} values for {mesh.n_nodes} nodes of the mesh",
            "one at each node",
            "Write the frame on the same mesh, with its positions.",
        )
    if places is not None:
        values = values[_order(path, np.asarray(places, np.float64), mesh)]
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).any(-1).sum())
        raise FileError(path, f"values of {count} nodes are not finite", "numbers", "Mend them.")
    speed = np.hypot(values[:, 0], values[:, 1])
    solid = mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE)
    slipping = solid & (speed > _SLIP * speed.max())
    if slipping.any():
        notes.append(
            f"the flow slips on {int(slipping.sum())} nodes of walls and cylinder, up to "
            f"{speed[slipping].max():.3g} m/s: is the frame of another geometry?"
        )
    return values, notes


def _order(path: Path, places: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Row of each node of the mesh."""
    from scipy.spatial import cKDTree

    away, rows = cKDTree(places).query(mesh.points)
    size = float(np.ptp(mesh.points, axis=0).max())
    # Files in float32 have positions of seven digits.
    if away.max() > 10 * SAME_PLACE * size + 1e-6 * size or len(set(rows.tolist())) < len(rows):
        raise FileError(
            path,
            f"its nodes are up to {away.max():.3g} m from those of the mesh",
            "the same places",
            "Interpolate the frame to the mesh.",
        )
    return rows
