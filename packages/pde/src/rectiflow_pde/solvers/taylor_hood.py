"""Taylor-Hood elements on triangles: velocity quadratic, pressure linear, and its operators.

Unknowns of the velocity are ordered component by component: ``u`` at all vertices and edge
middles, then ``v``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sparse

from rectiflow_pde.mesh import Mesh, NodeType

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

_BOUNDARY = (NodeType.INFLOW, NodeType.WALL, NodeType.OBSTACLE)


class TaylorHood:
    """The spaces on a mesh.

    Parameters
    ----------
    mesh : Mesh

    Attributes
    ----------
    places : ndarray, shape (k, 2)
        Where the unknowns of one component are: vertices in their order, then edge middles.
    mass, stiffness : sparse matrix, shape (k, k)
        Of one component.
    divergence : sparse matrix, shape (n, 2 k)
        ``q_i -> int q_i div u``: what the weak form requires to vanish.
    """

    def __init__(self, mesh: Mesh) -> None:
        from skfem import Basis, ElementTriP2, MeshTri
        from skfem.models.poisson import laplace, mass

        self.mesh = mesh
        grid = MeshTri(mesh.points.T.copy(), mesh.triangles.T.copy(), sort_t=False)
        basis = Basis(grid, ElementTriP2(), intorder=5)
        vertices = basis.nodal_dofs[0]
        middles = basis.facet_dofs[0]
        self.places = np.empty((basis.N, 2))
        self.places[vertices] = mesh.points
        self.places[middles] = mesh.points[grid.facets].mean(0)
        self.ends = grid.facets.T  # of the edges whose middles follow the vertices
        order = np.concatenate([vertices, middles])
        assert (order == np.arange(basis.N)).all()
        self.mass = mass.assemble(basis).tocsr()
        self.stiffness = laplace.assemble(basis).tocsr()
        self._dofs = basis.element_dofs.T.copy()  # (m, 6)
        self._weights = basis.dx  # (m, q)
        shape = [basis.elem.lbasis(basis.quadrature[0], i) for i in range(6)]
        self._values = np.stack([value for value, _ in shape])  # (6, q)
        self._slopes = np.stack([slope for _, slope in shape])  # (6, 2, q), on the reference
        corners = mesh.points[mesh.triangles]
        edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], -1)
        self._inverse = np.linalg.inv(edges)  # (m, 2, 2): reference coordinate, axis
        self._gather = self._scatter_matrix()
        self.divergence = self._divergence(basis.quadrature[0])

    @property
    def size(self) -> int:
        """Unknowns of one component."""
        return len(self.places)

    def _scatter_matrix(self) -> sparse.csr_matrix:
        """Return what sums shares of elements into unknowns."""
        flat = self._dofs.ravel()
        one = np.ones(len(flat))
        return sparse.csr_matrix((one, (flat, np.arange(len(flat)))), (self.size, len(flat)))

    def _divergence(self, quadrature: np.ndarray) -> sparse.csr_matrix:
        """Assemble ``int q_i d u_j / d x_a`` from the same quadrature."""
        x, y = quadrature
        linear = np.stack([1 - x - y, x, y])  # (3, q)
        reference = np.einsum("iq,jrq,mq->mijr", linear, self._slopes, self._weights)
        local = np.einsum("mijr,mra->amij", reference, self._inverse)
        rows = np.broadcast_to(self.mesh.triangles[:, :, None], local.shape[1:]).ravel()
        columns = np.broadcast_to(self._dofs[:, None, :], local.shape[1:]).ravel()
        shape = (self.mesh.n_nodes, self.size)
        parts = [sparse.csr_matrix((part.ravel(), (rows, columns)), shape) for part in local]
        return sparse.hstack(parts).tocsr()

    def convection(self, u: Float[np.ndarray, "2 k"]) -> Float[np.ndarray, "2 k"]:
        """Return ``int (u . grad) u . phi`` for each unknown."""
        local = u[:, self._dofs]  # (2, m, 6)
        m = local.shape[1]
        values = local @ self._values  # (2, m, q)
        slopes = (local @ self._slopes.reshape(6, -1)).reshape(2, m, 2, -1)
        inverse = self._inverse[..., None]
        carried = inverse[:, :, 0] * values[0][:, None] + inverse[:, :, 1] * values[1][:, None]
        density = carried[:, 0] * slopes[:, :, 0] + carried[:, 1] * slopes[:, :, 1]
        shares = (density * self._weights) @ self._values.T  # (2, m, 6)
        return np.stack([self._gather @ share.ravel() for share in shares])

    def load(self, force: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Return ``int f phi`` of a force density given at the unknowns' places."""
        return self.mass @ force

    @cached_property
    def held(self) -> Bool[np.ndarray, " k"]:
        """Which unknowns of a component stand on the inflow, a wall or the obstacle."""
        return np.isin(self.kinds, _BOUNDARY)

    @cached_property
    def kinds(self) -> Int[np.ndarray, " k"]:
        """Kind of each unknown's place; that of an edge's middle is its edge's."""
        mesh = self.mesh
        kinds = np.zeros(self.size, np.int64)
        kinds[: mesh.n_nodes] = mesh.node_type
        boundary = np.sort(mesh.edges, 1)
        key = boundary[:, 0] * mesh.n_nodes + boundary[:, 1]
        own = np.sort(self.ends, 1)
        order = np.argsort(own_key := own[:, 0] * mesh.n_nodes + own[:, 1])
        found = order[np.searchsorted(own_key[order], key)]
        kinds[mesh.n_nodes + found] = mesh.edge_type
        return kinds

    def refine(self, at_vertices: Float[np.ndarray, "... n"]) -> Float[np.ndarray, "... k"]:
        """Return values at all places from values at the vertices: middles take the mean."""
        middles = at_vertices[..., self.ends].mean(-1)
        return np.concatenate([at_vertices, middles], -1)
