"""The nearest flow without divergence that obeys its boundaries, at the end and on the way."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.inverse import Constrained
from torch import Tensor

from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.metrics.interpolation import interpolation

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.networks.patches import PatchCodec
    from rectiflow_pde.raster import Raster

_TINY = 1e-9
"""Of the largest diagonal entry: added to it, for modes of pressure that nothing drives."""


class Incompressible:
    r"""Move velocities as little as possible, to no weak divergence and given boundary values.

    .. math:: \min_{u'} \int |u' - u|^2 \quad \text{with} \quad \int \phi_i\, \nabla\cdot u' = 0

    for the hat function of each node, values on walls, obstacle and inflow held, and a lumped mass.
    The matrix is of the mesh alone and factored once; a frame then costs two triangular solves.

    Parameters
    ----------
    mesh : Mesh
    u_mean : float
        Mean inflow in m/s, of a parabola over the inflow.
    """

    def __init__(self, mesh: Mesh, u_mean: float) -> None:
        self.mesh = mesh
        self.held = mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE, NodeType.INFLOW)
        self.values = np.zeros((mesh.n_nodes, 2))
        inflow = mesh.nodes_of(NodeType.INFLOW)
        if inflow.any():
            y = mesh.points[:, 1]
            low, high = y.min(), y.max()
            parabola = 6 * u_mean * (y - low) * (high - y) / (high - low) ** 2
            self.values[inflow, 0] = parabola[inflow]

    @cached_property
    def _weak(self) -> Any:
        """The matrix from velocities (u of all nodes, then v) to the weak divergence."""
        from scipy.sparse import coo_matrix

        mesh = self.mesh
        share = mesh.gradients * mesh.areas[:, None, None] / 3  # int phi_i d(phi_j)/dx
        n, corners = mesh.n_nodes, mesh.triangles
        rows = np.repeat(corners, 3, axis=1).ravel()
        columns = np.tile(corners, (1, 3)).ravel()
        parts = [np.tile(share[:, :, axis], (1, 3)).ravel() for axis in (0, 1)]
        index = np.concatenate([rows, rows]), np.concatenate([columns, columns + n])
        return coo_matrix((np.concatenate(parts), index), (n, 2 * n)).tocsr()

    @cached_property
    def _solve(self) -> Any:
        from scipy.sparse import diags
        from scipy.sparse.linalg import splu

        gradient = diags(self._freedom) @ self._weak.T
        schur = (self._weak @ gradient).tocsc()
        largest = schur.diagonal().max()
        solve = splu(schur + _TINY * largest * diags(np.ones(self.mesh.n_nodes)).tocsc()).solve
        return lambda div: gradient @ solve(div)

    @cached_property
    def _freedom(self) -> np.ndarray:
        """One over the mass of each velocity that may move."""
        free = np.where(self.held, 0.0, 1.0 / self.mesh.node_areas)
        return np.concatenate([free, free])

    def __call__(self, fields: Float[np.ndarray, "*f n k"]) -> Float[np.ndarray, "*f n k"]:
        """Return the fields with the first two, u and v, changed."""
        flat = fields.reshape(-1, *fields.shape[-2:]).astype(np.float64)
        flat[:, self.held, :2] = self.values[self.held]
        both = np.concatenate([flat[..., 0], flat[..., 1]], -1).T
        both = both - self._solve(self._weak @ both)
        n = self.mesh.n_nodes
        flat[..., 0], flat[..., 1] = both[:n].T, both[n:].T
        return flat.reshape(fields.shape).astype(fields.dtype)


def held(
    codec: PatchCodec, raster: Raster, hold: Incompressible, speed: float, *, since: float = 0.5
) -> Constrained:
    """Return a correction that holds the data predictions of latents while they are sampled.

    A prediction is decoded, read at the nodes, moved, and what was moved is read on the raster and
    encoded: as far as the codec can tell it.

    Parameters
    ----------
    codec : PatchCodec
    raster : Raster
        Of the codec.
    hold : Incompressible
        Of a mesh.
    speed : float
        Mean inflow in m/s, the unit of latents.
    since : float, default 0.5
        Time from which on it acts; earlier predictions are blurred means.
    """
    from scipy.sparse import csr_matrix

    mesh, (_, ny) = hold.mesh, raster.cells
    (ix, wx), (iy, wy) = raster.stencil(mesh.points)
    cells, weights = ix[:, :, None] * ny + iy[:, None, :], wx[:, :, None] * wy[:, None, :]
    rows = np.repeat(np.arange(mesh.n_nodes), 16)
    shape = mesh.n_nodes, int(np.prod(raster.cells))
    onto = csr_matrix((weights.ravel(), (rows, cells.ravel())), shape)
    found = interpolation(mesh, raster.points)
    inside = np.flatnonzero(~found.outside)
    weights, nodes = found.weights[inside], found.nodes[inside]
    back = csr_matrix((weights.ravel(), (np.repeat(inside, 3), nodes.ravel())), shape[::-1])

    def project(z: Tensor) -> Tensor:
        flow = codec.decode(z)
        b, _, x, y, t = flow.shape
        velocity = flow[:, :2].double().cpu().numpy().transpose(2, 3, 0, 4, 1).reshape(x * y, -1)
        at_nodes = (onto @ velocity).reshape(-1, b, t, 2).transpose(1, 2, 0, 3) * speed
        moved = (hold(at_nodes) - at_nodes) / speed
        change = back @ moved.transpose(2, 0, 1, 3).reshape(mesh.n_nodes, -1)
        change = change.reshape(x, y, b, t, 2).transpose(2, 4, 0, 1, 3)
        offset = torch.zeros_like(flow)
        offset[:, :2] = torch.from_numpy(np.ascontiguousarray(change)).to(flow)
        return z + codec.encode(offset + codec.mean[..., None])

    return Constrained(project, since)  # type: ignore[arg-type]
