"""Divergence, vorticity and energy of fields on triangles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.metrics.boundary import gradients

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.mesh import Mesh


@dataclass(frozen=True, eq=False)
class Divergence:
    """Divergence of a velocity that is linear in each triangle.

    Solved flows have one too when only their vertices are kept, about 0.1 of their gradient on
    meshes of a thousand nodes: compare a sample with the truth, not with 0.

    Attributes
    ----------
    weak : ndarray, shape (*f, n)
        ``int phi_i div u`` for the hat function of each node, m²/s.
    l2 : ndarray, shape (*f)
        ``|div u|`` over the mesh.
    ratio : ndarray, shape (*f)
        ``|div u| / |grad u|``; 0 at rest.
    """

    weak: Float[np.ndarray, "*f n"]
    l2: Float[np.ndarray, "*f"]
    ratio: Float[np.ndarray, "*f"]


def divergence(
    mesh: Mesh, u: Float[np.ndarray, "*f n"], v: Float[np.ndarray, "*f n"]
) -> Divergence:
    """Measure the divergence of velocities at the nodes."""
    du, dv = gradients(mesh, np.asarray(u, float)), gradients(mesh, np.asarray(v, float))
    div = du[..., 0] + dv[..., 1]
    share = np.repeat(div * mesh.areas / 3, 3, axis=-1)
    flat = share.reshape(-1, share.shape[-1])
    nodes = mesh.triangles.ravel()
    weak = np.stack([np.bincount(nodes, row, mesh.n_nodes) for row in flat])
    l2 = np.sqrt((div**2 * mesh.areas).sum(-1))
    size = np.sqrt((((du**2).sum(-1) + (dv**2).sum(-1)) * mesh.areas).sum(-1))
    ratio = np.divide(l2, size, out=np.zeros_like(l2), where=size > 0)
    return Divergence(weak.reshape(*div.shape[:-1], mesh.n_nodes), l2, ratio)


def vorticity(
    mesh: Mesh, u: Float[np.ndarray, "*f n"], v: Float[np.ndarray, "*f n"]
) -> Float[np.ndarray, "*f m"]:
    """Return ``dv/dx - du/dy`` of each triangle, 1/s."""
    du, dv = gradients(mesh, np.asarray(u, float)), gradients(mesh, np.asarray(v, float))
    return dv[..., 0] - du[..., 1]


def kinetic_energy(
    mesh: Mesh, u: Float[np.ndarray, "*f n"], v: Float[np.ndarray, "*f n"]
) -> Float[np.ndarray, "*f"]:
    """Return ``int |u|² / 2`` over the mesh, m⁴/s², exactly for velocities linear in triangles."""
    total = np.zeros(np.shape(u)[:-1])
    for part in (u, v):
        corners = np.asarray(part, float)[..., mesh.triangles]
        # Of a linear function: area / 12 (sum of squares + square of sum).
        squares = (corners**2).sum(-1) + corners.sum(-1) ** 2
        total = total + (squares * mesh.areas).sum(-1) / 24
    return total
