"""Pictures of normals that can be differentiated by the vertices, in plain torch.

What is seen at the middle of a pixel is found without gradient (:func:`.render.visible`), and its
place on the face again with one. Outlines are made to move by antialiasing: where the picture
changes between the middles of two pixels, an edge that turns away from the camera passes between
them, and the pixel that it cuts is a mixture of both sides, by how far the edge is from either.

References
----------
Laine et al., "Modular Primitives for High-Performance Differentiable Rendering" (SIGGRAPH Asia
2020), section 3.5. Theirs looks for the edge on the face that is seen, which faces thinner than a
pixel defeat; here all edges on outlines are followed along the lines of middles.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.topology import edge_uses, half_edges
from rectiflow_shape.render import Camera, visible

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_ASIDE = 0.3  # cosine of face and view below which a pixel's place on a face is held


class Surface:
    """The faces of a closed mesh, whose vertices move.

    Parameters
    ----------
    mesh : Mesh
        Closed and manifold: each edge has two faces.
    """

    def __init__(self, mesh: Mesh) -> None:
        uses, edge, _ = edge_uses(mesh.faces)
        if (uses != 2).any():
            raise ValueError(
                f"a surface must be closed and manifold, got {int((uses != 2).sum())} edges "
                "without exactly two faces; repair the mesh first."
            )
        order = np.argsort(edge, kind="stable").reshape(-1, 2)
        self.faces = torch.from_numpy(mesh.faces)
        self.edges = torch.from_numpy(half_edges(mesh.faces)[order[:, 0]])
        self.beside = torch.from_numpy(order % len(mesh.faces))
        self.count = len(mesh.vertices)

    def crosses(self, vertices: Float[Tensor, "v 3"]) -> Float[Tensor, "f 3"]:
        """Return the normal of each face, as long as twice its area."""
        a, b, c = vertices[self.faces].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    def normals(self, vertices: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        """Return the unit normal of each vertex, mean of its faces' by their area."""
        crosses = self.crosses(vertices)
        total = torch.zeros_like(vertices)
        for corner in self.faces.unbind(1):
            total = total.index_add(0, corner, crosses)
        return _unit(total)

    def bend(self, vertices: Float[Tensor, "v 3"]) -> Tensor:
        """Return how much adjacent faces differ: mean of 1 less the cosine of their normals."""
        first, second = _unit(self.crosses(vertices))[self.beside].unbind(1)
        return (1 - (first * second).sum(1)).mean()

    def picture(
        self, vertices: Float[Tensor, "v 3"], camera: Camera, size: int
    ) -> Float[Tensor, "s s 4"]:
        """Draw normals, mapped to 0 to 1, and how much of a pixel is covered; 0 where nothing is.

        Parameters
        ----------
        vertices : Tensor, shape (v, 3)
        camera : Camera
        size : int
            Pixels of a side.
        """
        screen, away = camera.project(vertices, size)
        with torch.no_grad():
            corners, far = screen[self.faces].numpy(), away[self.faces].numpy()
            depth, face = map(torch.from_numpy, visible(corners, far, size))
        y, x = (face >= 0).nonzero(as_tuple=True)
        seen = self.faces[face[y, x]]
        a, b, c = (screen[seen] - (torch.stack([x, y], 1) + 0.5)[:, None]).unbind(1)
        shares = torch.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1) / away[seen]
        shares = shares / shares.sum(1, keepdim=True)
        with torch.no_grad():  # on faces seen from the side places move without bound
            ray = _unit(camera.towards(vertices[seen[:, 0]]))
            aside = (_unit(self.crosses(vertices))[face[y, x]] * ray).sum(1) < _ASIDE
        shares = torch.where(aside[:, None], shares.detach(), shares)
        normal = _unit((shares[..., None] * self.normals(vertices)[seen]).sum(1))
        drawn = torch.cat([(normal + 1) / 2, torch.ones_like(normal[:, :1])], 1)
        picture = screen.new_zeros(size, size, 4).index_put((y, x), drawn)
        outline = self._outline(screen)
        return picture + sum(
            self._smoothed(picture, depth, face, outline, screen, away, axis) for axis in (0, 1)
        )

    def _outline(self, screen: Tensor) -> Int[Tensor, "e 2"]:
        """Return the edges where the surface turns away."""
        with torch.no_grad():
            a, b, c = screen[self.faces].unbind(1)
            front = _cross(b - a, c - a) < 0  # rows of a picture go down
            first, second = front[self.beside].unbind(1)
            return self.edges[first != second]

    def _smoothed(
        self,
        picture: Tensor,
        depth: Tensor,
        face: Tensor,
        outline: Tensor,
        screen: Tensor,
        away: Tensor,
        axis: int,
    ) -> Float[Tensor, "s s 4"]:
        """Return what antialiasing along the rows (0) or the columns (1) adds."""
        size = len(picture)
        if axis:
            picture, depth, face = picture.transpose(0, 1), depth.T, face.T
            screen = screen.flip(1)
        # A flatter edge is followed along the other axis, where it moves no more than its ends do.
        wide, high = (screen[outline[:, 1]] - screen[outline[:, 0]]).detach().abs().unbind(1)
        outline = outline[high >= wide]
        (xa, ya), (xb, yb) = (screen[outline[:, k]].unbind(1) for k in (0, 1))
        with torch.no_grad():
            low = (torch.minimum(ya, yb) - 0.5).ceil().long().clamp(0, size)
            high = (torch.maximum(ya, yb) - 0.5).floor().long().clamp(-1, size - 1)
            counts = (high - low + 1).clamp_min(0)
            edge = torch.arange(len(outline)).repeat_interleave(counts)
            row = torch.arange(len(edge)) - (counts.cumsum(0) - counts)[edge] + low[edge]
            whole = yb[edge] != ya[edge]
            edge, row = edge[whole], row[whole]
        share = (row + 0.5 - ya[edge]) / (yb - ya)[edge]
        x = xa[edge] + share * (xb - xa)[edge] - 0.5
        with torch.no_grad():
            left = x.floor().long()
            near = 1 / away[outline[edge]]
            at = 1 / (near[:, 0] + share * (near[:, 1] - near[:, 0]))
            inside = (left >= 0) & (left < size - 1)
            left = left.clamp(0, size - 2)
            sides = torch.stack([depth[row, left], depth[row, left + 1]], 1)
            kept = inside & (face[row, left] != face[row, left + 1]) & (at < sides.amax(1))
            kept = kept.nonzero()[:, 0]
            pair = row[kept] * size + left[kept]
            order = np.lexsort((at[kept].numpy(), pair.numpy()))
            first = np.unique(pair.numpy()[order], return_index=True)[1]
            kept = kept[torch.from_numpy(order[first])]
            row, left = row[kept], left[kept]
        over = (x[kept] - left - 0.5)[:, None]
        step = picture[row, left + 1] - picture[row, left]
        added = torch.zeros_like(picture)
        added = added.index_put((row, left), torch.relu(-over) * step, accumulate=True)
        added = added.index_put((row, left + 1), -torch.relu(over) * step, accumulate=True)
        return added.transpose(0, 1) if axis else added


class Preconditioner:
    """Smooths gradients over a surface: solves ``(1 + λ L) x = b`` with the graph's Laplacian.

    Parameters
    ----------
    surface : Surface
    strength : float
        λ.

    References
    ----------
    Nicolet et al., "Large Steps in Inverse Rendering of Geometry" (SIGGRAPH Asia 2021).
    """

    def __init__(self, surface: Surface, strength: float) -> None:
        self.surface, self.strength = surface, strength

    @cached_property
    def _system(self) -> Any:
        from scipy.sparse import coo_matrix, csc_matrix, diags, identity

        n, (i, j) = self.surface.count, self.surface.edges.numpy().T
        graph = coo_matrix((np.ones(len(i)), (i, j)), (n, n))
        graph = csc_matrix(graph + graph.T)
        degree = np.asarray(graph.sum(1)).ravel()
        return csc_matrix(identity(n) + self.strength * (diags(degree) - graph))

    @cached_property
    def _factors(self) -> Any:
        from scipy.sparse.linalg import splu

        told = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0.0}
        return splu(self._system, **told, options={"SymmetricMode": True})

    def apply(self, x: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        """Return ``(1 + λ L) x``."""
        return torch.from_numpy(self._system @ x.numpy())

    def solve(self, b: Float[Tensor, "v 3"]) -> Float[Tensor, "v 3"]:
        """Return x."""
        return torch.from_numpy(self._factors.solve(b.numpy()))


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)
