"""What each node of a boundary is: by the names of a file, or inferred from geometry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.mesh import NodeType, boundary_edges

if TYPE_CHECKING:
    from jaxtyping import Int

_WORDS = {
    NodeType.INFLOW: r"in(let|flow)?",
    NodeType.OUTFLOW: r"out(let|flow)?",
    NodeType.OBSTACLE: r"cylinders?|circle|obstacles?|body|hole|airfoil",
    NodeType.WALL: r"walls?|top|bottom|sides?|upper|lower|no_?slip",
}
NAMES = {
    "inlet": NodeType.INFLOW,
    "outlet": NodeType.OUTFLOW,
    "wall": NodeType.WALL,
    "cylinder": NodeType.OBSTACLE,
}
"""How kinds are written in ``5=inlet,6=outlet``."""


def kind_of(name: str) -> NodeType | None:
    """Return the kind that a name of a boundary means.

    Examples
    --------
    >>> kind_of("Inlet"), kind_of("walls"), kind_of("7")
    (<NodeType.INFLOW: 1>, <NodeType.WALL: 3>, None)
    """
    plain = re.sub(r"[\W\d]+", "", name.lower())
    return next((k for k, word in _WORDS.items() if re.fullmatch(word, plain)), None)


def loops_of(edges: Int[np.ndarray, "e 2"]) -> Int[np.ndarray, " e"]:
    """Return the number of the closed line that each boundary edge belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    size = int(edges.max()) + 1
    graph = coo_matrix((np.ones(len(edges)), edges.T), (size, size))
    return connected_components(graph, directed=False)[1][edges[:, 0]]


def infer_kinds(points: np.ndarray, edges: Int[np.ndarray, "e 2"]) -> Int[np.ndarray, " e"]:
    """Kinds of boundary edges by geometry: left in, right out, inner lines obstacles, else wall."""
    ends = points[edges]
    tolerance = 1e-6 * float(np.ptp(points, axis=0).max())
    low, high = points[edges.ravel()].min(0), points[edges.ravel()].max(0)
    kinds = np.full(len(edges), int(NodeType.WALL))
    kinds[(ends[..., 0] < low[0] + tolerance).all(1)] = NodeType.INFLOW
    kinds[(ends[..., 0] > high[0] - tolerance).all(1)] = NodeType.OUTFLOW
    loops = loops_of(edges)
    outer = loops[int(ends[:, 0, 0].argmin())]
    kinds[loops != outer] = NodeType.OBSTACLE
    return kinds


def inner_nodes(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Which nodes stand on an inner line of the boundary, shape (n,)."""
    edges = boundary_edges(triangles)
    loops = loops_of(edges)
    outer = loops[int(points[edges[:, 0], 0].argmin())]
    found = np.zeros(len(points), bool)
    found[edges[loops != outer]] = True
    return found


def node_types(
    n: int, edges: Int[np.ndarray, "e 2"], kinds: Int[np.ndarray, " e"]
) -> Int[np.ndarray, " n"]:
    """Kinds of nodes from those of boundary edges; a corner with a wall is wall."""
    found = np.zeros(n, np.int64)
    for kind in (NodeType.INFLOW, NodeType.OUTFLOW, NodeType.OBSTACLE, NodeType.WALL):
        found[edges[kinds == kind]] = kind
    return found


def kinds_by_name(
    edges: Int[np.ndarray, "e 2"],
    tags: Mapping[tuple[int, int], str],
    given: Mapping[str, NodeType],
) -> tuple[Int[np.ndarray, " e"], list[str]]:
    """Kinds of boundary edges by their names, -1 where they have none that is known.

    Returns
    -------
    ndarray, shape (e,)
    list of str
        Names that mean nothing here.
    """
    kinds = np.full(len(edges), -1)
    strange: dict[str, None] = {}
    for i, (a, b) in enumerate(np.sort(edges, 1).tolist()):
        tag = tags.get((a, b), "")
        kind = given.get(tag) or kind_of(tag)
        if kind is not None:
            kinds[i] = kind
        elif tag:
            strange[tag] = None
    return kinds, sorted(strange)
