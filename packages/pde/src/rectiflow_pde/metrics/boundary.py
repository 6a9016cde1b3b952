"""Integrals over boundaries: flux, forces on the obstacle, and their coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.mesh import Mesh, NodeType

if TYPE_CHECKING:
    from jaxtyping import Float


def normals(mesh: Mesh, kind: NodeType) -> Float[np.ndarray, "k 2"]:
    """Return the normal of each edge of a kind, out of the fluid, as long as the edge."""
    ends = mesh.points[mesh.edges_of(kind)]
    along = ends[:, 1] - ends[:, 0]
    return np.stack([along[:, 1], -along[:, 0]], -1)


def flux(
    mesh: Mesh,
    u: Float[np.ndarray, "*f n"],
    v: Float[np.ndarray, "*f n"],
    kind: NodeType,
) -> Float[np.ndarray, "*f"]:
    """Volume per second and metre of depth out through the edges of a kind, m²/s, by trapezoids.

    Of a parabola over M even edges it falls short by 1/M² of the flux, of which
    :func:`flux_error` gives a bound: an exact flow looks unbalanced by as much.
    """
    edges, normal = mesh.edges_of(kind), normals(mesh, kind)
    through = u[..., edges].mean(-1) * normal[:, 0] + v[..., edges].mean(-1) * normal[:, 1]
    return through.sum(-1)


def flux_error(mesh: Mesh, kind: NodeType) -> float:
    """Share by which trapezoids miss the flux of a parabola over the edges of a kind."""
    lengths = np.linalg.norm(normals(mesh, kind), axis=1)
    return float((lengths**3).sum() / lengths.sum() ** 3) if len(lengths) else 0.0


def imbalance(
    mesh: Mesh, u: Float[np.ndarray, "*f n"], v: Float[np.ndarray, "*f n"]
) -> tuple[Float[np.ndarray, "*f"], float]:
    """Net flux out over the inflow, and what of it quadrature alone can make.

    Returns
    -------
    ndarray, shape (*f,)
        (outflow - inflow) / inflow; NaN without inflow.
    float
        The larger of :func:`flux_error` at both ends.
    """
    enters = -flux(mesh, u, v, NodeType.INFLOW)
    leaves = flux(mesh, u, v, NodeType.OUTFLOW)
    allowed = max(flux_error(mesh, NodeType.INFLOW), flux_error(mesh, NodeType.OUTFLOW))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(enters != 0, (leaves - enters) / enters, np.nan), allowed


def mean_inflow(mesh: Mesh, u: Float[np.ndarray, " n"]) -> float:
    """Mean velocity through the inflow in m/s, corrected for the trapezoids of a parabola."""
    length = mesh.length_of(NodeType.INFLOW)
    v = np.zeros_like(u)
    short = 1 - flux_error(mesh, NodeType.INFLOW)
    return float(-flux(mesh, u, v, NodeType.INFLOW) / length / short)


def forces(
    mesh: Mesh,
    u: Float[np.ndarray, "*f n"],
    v: Float[np.ndarray, "*f n"],
    p: Float[np.ndarray, "*f n"],
    viscosity: float,
) -> Float[np.ndarray, "*f 2"]:
    """Force of the flow on the obstacle per metre of depth over density, m³/s²: drag and lift.

    ``F = - oint p n ds + nu oint (grad u + grad u^T) n ds`` with ``n`` out of the body, the
    gradients those of the triangles beside it. On meshes of 30 edges around a cylinder about
    10 % lower than by the residual of the solver; a constant pressure has no force.
    """
    edges = mesh.edges_of(NodeType.OBSTACLE)
    out = -normals(mesh, NodeType.OBSTACLE)  # out of the body
    p = np.asarray(p, np.float64)
    p = p - p[..., edges].mean((-2, -1))[..., None]  # of a large gauge only rounding would be left
    press = -(p[..., edges].mean(-1)[..., None] * out).sum(-2)
    owner = _triangles_at(mesh, edges)
    grad = gradients(mesh, np.stack([u, v], -2))[..., owner, :]  # (*f, 2, k, 2)
    stress = grad + np.swapaxes(grad, -1, -3)
    shear = np.einsum("...ikj,kj->...i", stress, out)
    return press + viscosity * shear


def gradients(mesh: Mesh, values: Float[np.ndarray, "*f n"]) -> Float[np.ndarray, "*f m 2"]:
    """Gradient in each triangle of values at the nodes."""
    return np.einsum("...mi,mia->...ma", values[..., mesh.triangles], mesh.gradients)


def _triangles_at(mesh: Mesh, edges: np.ndarray) -> np.ndarray:
    """Triangle of each boundary edge."""
    directed = mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    key = directed[:, 0] * mesh.n_nodes + directed[:, 1]
    order = np.argsort(key)
    found = np.searchsorted(key[order], edges[:, 0] * mesh.n_nodes + edges[:, 1])
    return order[found] // 3


def coefficients(
    force: Float[np.ndarray, "*f 2"], u_mean: float, diameter: float
) -> Float[np.ndarray, "*f 2"]:
    """Drag and lift coefficients ``2 F / (U² D)`` with the mean inflow, as in the DFG benchmark."""
    return 2 * force / (u_mean**2 * diameter)
