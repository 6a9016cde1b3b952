"""Triangles in the plane, and what each of their nodes is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class NodeType(IntEnum):
    """What a node is; a corner between two kinds counts as wall."""

    FLUID = 0
    INFLOW = 1
    OUTFLOW = 2
    WALL = 3
    OBSTACLE = 4


# Of an edge between nodes of two kinds, the kind is the one that stands first here: corners count
# as wall, so the edge from a corner to an inflow node belongs to the inflow.
_OF_EDGES = (NodeType.INFLOW, NodeType.OUTFLOW, NodeType.OBSTACLE, NodeType.WALL)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A conforming triangulation.

    Attributes
    ----------
    points : ndarray, shape (n, 2), float64
        Metres.
    triangles : ndarray, shape (m, 3), int64
        Node numbers, counter-clockwise.
    node_type : ndarray, shape (n,), int64
        A :class:`NodeType` each.

    Raises
    ------
    ValueError
        If shapes do not agree, or a triangle names a node that is not there.
    """

    points: Float[np.ndarray, "n 2"]
    triangles: Int[np.ndarray, "m 3"]
    node_type: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        kinds = {"points": np.float64, "triangles": np.int64, "node_type": np.int64}
        for name, dtype in kinds.items():
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype))
        n = len(self.points)
        shapes = self.points.shape, self.triangles.shape[1:], self.node_type.shape
        if shapes != ((n, 2), (3,), (n,)):
            raise ValueError(
                f"a mesh has points (n, 2), triangles (m, 3) and node types (n,), got "
                f"{self.points.shape}, {self.triangles.shape} and {self.node_type.shape}."
            )
        if not len(self.triangles):
            raise ValueError("a mesh needs triangles, got none; expected at least one.")
        if self.triangles.min() < 0 or self.triangles.max() >= n:
            raise ValueError(
                f"triangles name nodes {self.triangles.min()} to {self.triangles.max()}, got {n} "
                f"nodes; expected numbers from 0 to {n - 1}. Do they count from 1?"
            )

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.points)

    @cached_property
    def areas(self) -> Float[np.ndarray, " m"]:
        """Area of each triangle in m², positive where its nodes go counter-clockwise."""
        return signed_areas(self.points, self.triangles)

    @cached_property
    def edges(self) -> Int[np.ndarray, "e 2"]:
        """Edges that one triangle alone has, with the fluid to their left."""
        return boundary_edges(self.triangles)

    @cached_property
    def edge_type(self) -> Int[np.ndarray, " e"]:
        """Kind of each of :attr:`edges`."""
        ends = self.node_type[self.edges]
        found = np.full(len(ends), int(NodeType.WALL))
        for kind in reversed(_OF_EDGES):
            found[(ends == kind).any(1)] = kind
        return found

    def edges_of(self, kind: NodeType) -> Int[np.ndarray, "k 2"]:
        """Boundary edges of one kind."""
        return self.edges[self.edge_type == kind]

    def nodes_of(self, *kinds: NodeType) -> Bool[np.ndarray, " n"]:
        """Which nodes are of one of the kinds."""
        return np.isin(self.node_type, kinds)

    def length_of(self, kind: NodeType) -> float:
        """Length of the boundary of one kind in metres."""
        ends = self.points[self.edges_of(kind)]
        return float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).sum())

    @cached_property
    def gradients(self) -> Float[np.ndarray, "m 3 2"]:
        """Gradient in 1/m of the hat function of each corner, constant in each triangle."""
        corners = self.points[self.triangles]
        across = np.roll(corners, -1, 1) - np.roll(corners, -2, 1)  # opposite edge, backwards
        turned = np.stack([across[..., 1], -across[..., 0]], -1)
        return turned / (2 * self.areas[:, None, None])

    @cached_property
    def node_areas(self) -> Float[np.ndarray, " n"]:
        """A third of the area of the triangles around each node: the weights of sums over nodes."""
        weights = np.repeat(self.areas / 3, 3)
        return np.bincount(self.triangles.ravel(), weights, minlength=self.n_nodes)


def signed_areas(
    points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "m 3"]
) -> Float[np.ndarray, " m"]:
    """Area of each triangle, negative where its nodes go clockwise."""
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    return 0.5 * (ux * vy - uy * vx)


def boundary_edges(triangles: Int[np.ndarray, "m 3"]) -> Int[np.ndarray, "e 2"]:
    """Edges that one triangle alone has, directed as the triangle goes around."""
    edges = triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    _, first, counts = np.unique(np.sort(edges, 1), axis=0, return_index=True, return_counts=True)
    return edges[np.sort(first[counts == 1])]
