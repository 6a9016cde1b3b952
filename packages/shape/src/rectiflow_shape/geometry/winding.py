"""Winding numbers around meshes of size 2 at the origin, and on both sides of their faces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.topology import unit

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float

    Winding = Callable[[Float[np.ndarray, "q 3"]], Float[np.ndarray, " q"]]

CLEAR = 0.25
"""A winding number this near to a whole one says clearly what is inside."""

_STEP = 1e-5  # from a face, to ask on which side what is
_ASKED = 2000  # faces of a sample


def winding(mesh: Mesh) -> Winding:
    """Return the winding number around a mesh of size 2 at the origin."""
    import igl

    tree = igl.FastWindingNumberBVH()
    tree.init(mesh.vertices, mesh.faces)
    return tree.winding_number


def sides(
    triangles: Float[np.ndarray, "t 3 3"], turns: Winding
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Return the winding numbers just before and just behind the middle of each triangle."""
    crosses = soup(triangles).crosses
    length = np.linalg.norm(crosses, axis=1, keepdims=True)
    step = _STEP * crosses / np.where(length > 0, length, 1)
    middles = triangles.mean(1)
    return turns(middles + step), turns(middles - step)


def hidden_share(mesh: Mesh) -> float:
    """Return which share of the area of some faces lies inside of others; the mesh is oriented."""
    whole, _, _ = unit(mesh)
    rows = np.unique(np.linspace(0, len(whole.faces) - 1, _ASKED).astype(int))
    outside, inside = sides(whole.triangles[rows], winding(whole))
    area = whole.areas[rows]
    return float(area[np.minimum(outside, inside) > 0.5 + CLEAR].sum() / area.sum())


def soup(triangles: Float[np.ndarray, "t 3 3"]) -> Mesh:
    """Return a mesh of triangles that share no vertices."""
    return Mesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3))
