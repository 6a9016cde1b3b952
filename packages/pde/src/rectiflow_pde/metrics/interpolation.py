"""Values anywhere in a mesh from values at its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from rectiflow_pde.mesh import Mesh

_EDGE = 1e-9  # how far outside a triangle, in its heights, still counts as on its edge


@dataclass(frozen=True, eq=False)
class Interpolation:
    """Weights of nodes at places; linear functions are exact.

    Attributes
    ----------
    nodes : ndarray, shape (q, 3)
    weights : ndarray, shape (q, 3)
        NaN at places outside the mesh, so that values there are NaN.
    """

    nodes: Int[np.ndarray, "q 3"]
    weights: Float[np.ndarray, "q 3"]

    def __call__(self, values: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... q"]:
        """Return the values at the places; NaN outside the mesh."""
        return (values[..., self.nodes] * self.weights).sum(-1)

    @property
    def outside(self) -> np.ndarray:
        """Which places are outside the mesh, shape (q,)."""
        return np.isnan(self.weights).any(-1)


def interpolation(mesh: Mesh, places: Float[np.ndarray, "q 2"]) -> Interpolation:
    """Find the triangles around places.

    Parameters
    ----------
    mesh : Mesh
    places : ndarray, shape (q, 2)
        Metres.
    """
    from scipy.spatial import cKDTree

    places = np.atleast_2d(np.asarray(places, np.float64))
    tree = cKDTree(mesh.points[mesh.triangles].mean(1))
    nodes = np.zeros((len(places), 3), np.int64)
    weights = np.full((len(places), 3), np.nan)
    waiting = np.arange(len(places))
    # The triangle around a place is among those with near middles; how near depends on grading.
    for count in (8, 64, 512):
        if not len(waiting):
            break
        found = tree.query(places[waiting], min(count, len(mesh.triangles)))[1]
        found = found.reshape(len(waiting), -1)
        first = mesh.points[mesh.triangles[found][..., 0]]
        away = places[waiting][:, None] - first  # (w, c, 2)
        rest = np.einsum("wcia,wca->wci", mesh.gradients[found][:, :, 1:], away)
        shares = np.concatenate([1 - rest.sum(-1, keepdims=True), rest], -1)
        inside = shares.min(-1)
        best = inside.argmax(1)
        row = np.arange(len(waiting))
        hit = inside[row, best] > -_EDGE
        nodes[waiting[hit]] = mesh.triangles[found[row, best]][hit]
        weights[waiting[hit]] = shares[row, best][hit]
        waiting = waiting[~hit]
    return Interpolation(nodes, weights)
