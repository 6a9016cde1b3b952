"""The surface of a field, evaluated only near it: sparse marching cubes on a lattice of 2^depth.

::

    found = extract(lambda points: -sdf(points), depth=8)     # positive inside
    found.mesh, found.queries, found.capped, found.smallest

A coarse lattice is evaluated whole. A cell is divided if its corners differ in sign, or if one is
so near zero that the surface may pass between them; the corners of its children that are new are
evaluated, and so on. On the last level the surface is followed across sides of cells, so that it
is closed wherever it leads, also where the field changes faster than was thought.

The mesh is watertight and manifold whatever the field is: :mod:`rectiflow_shape.geometry.cells`
says why. A node exactly on the level is outside, and no vertex is nearer to a node than
:data:`MARGIN` of the box, so that no two vertices coincide and no face is degenerate, also in
float32. Nodes beyond the box are outside: a surface that leaves the box is capped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.geometry.cells import EDGES, triangle_table
from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.sampling import surface_points

if TYPE_CHECKING:
    from jaxtyping import Float

    Field = Callable[[Float[Tensor, "q 3"]], Float[Tensor, " q"]]

BOX = 1.005
"""Half side of the cube that is searched, as in TripoSG."""

MARGIN = 5e-7
"""Least distance of a vertex to a node, in half sides of the box: four steps of float32 at 1."""

_COARSE = 5  # depth of the lattice that is evaluated whole: 0.2 % of depth 8
_PLATEAU = 0.95  # share of the largest value beyond which a truncated field says nothing
_STEEPER = 1.05  # the steepest slope along an axis is a little less than the steepest of all
_HALF_DIAGONAL = math.sqrt(3) / 2
_DEEPEST = 12

_CORNERS = torch.tensor([[c & 1, c >> 1 & 1, c >> 2 & 1] for c in range(8)])


@dataclass(frozen=True)
class Extraction:
    """A surface, and what it took.

    Attributes
    ----------
    mesh : Mesh
        Watertight, manifold, looking outward; float64 vertices in the coordinates of the box.
    queries, dense : int
        Points that were evaluated, and what the whole lattice has.
    capped : bool
        Whether the surface leaves the box and was closed at its sides.
    smallest : float
        Parts that hold a ball of this radius are found for sure, if the field is a distance up to
        its truncation; 0 if all are.
    """

    mesh: Mesh
    queries: int
    dense: int
    capped: bool
    smallest: float


@torch.no_grad()
def extract(
    field: Field,
    *,
    depth: int = 8,
    box: float = BOX,
    level: float = 0.0,
    chunk: int = 1 << 17,
    truncation: float | None = None,
    device: torch.device | str = "cpu",
) -> Extraction:
    """Find the surface where a field equals a level.

    Parameters
    ----------
    field : callable
        Maps points ``(q, 3)``, float32 on ``device``, to values ``(q,)``: above the level inside.
        Its scale does not matter.
    depth : int, default 8
        The lattice has 2^depth cells a side.
    box : float
        Half side of the cube around the origin.
    level : float, default 0
        The value on the surface.
    chunk : int
        Most points of one call.
    truncation : float, optional
        Distance at which the field saturates at ±1, in the units of the box. The coarse lattice is
        made fine enough for it, as far as two levels below ``depth``; ``smallest`` tells the rest.
        Absent, the slope is measured on the coarse lattice.
    device : device
        Where points are made and cells are sorted.

    Raises
    ------
    ValueError
        If ``depth`` is out of range, a value is not finite, or there is no surface.
    """
    if not 1 <= depth <= _DEEPEST:
        raise ValueError(f"depth must be 1 to {_DEEPEST}, got {depth}; 8 is 256 cells a side.")
    coarse, smallest = _coarse_depth(depth, box, truncation)
    lattice = _Lattice(field, depth, box, level, chunk, torch.device(device))
    cells = lattice.all_cells(coarse)
    values = lattice.values(cells, coarse)
    largest = float(values[values.isfinite()].abs().max())
    slope = 1 / truncation if truncation else _slope(values, 2 * box / 2**coarse)
    for now in range(coarse, depth):
        side = 2 * box / 2**now
        bound = min(slope * side * _HALF_DIAGONAL, _PLATEAU * largest)
        cells = cells[_mixed(values) | (values.abs().amin(1) <= bound)]
        cells = lattice.children(cells, now, slope * side / 2, _PLATEAU * largest)
        values = lattice.values(cells, now + 1)
    cells, values = lattice.follow(cells, values)
    low, high = lattice.range()
    if low > level or high <= level:
        raise ValueError(
            f"the field has no surface at level {level:g}, got values from {low:g} to {high:g}, "
            f"all {'positive, that is inside' if low > level else 'negative, that is outside'}; "
            "expected both signs in the box."
        )
    vertices, faces = _polygons(lattice, cells, values)
    return Extraction(
        Mesh(vertices.cpu().numpy(), faces.cpu().numpy()),
        lattice.queries,
        (2**depth + 1) ** 3,
        bool(values.isinf().any()),
        smallest,
    )


@torch.no_grad()
def saturation(field: Field, mesh: Mesh, *, furthest: float = 0.5, n: int = 2000) -> float:
    """Measure at which distance a truncated field saturates: the ``truncation`` of :func:`extract`.

    From points of its surface one walks inward and outward along the normals, up to where the field
    has 0.95 of its largest value.

    Parameters
    ----------
    field : callable
        As for :func:`extract`, zero on the surface.
    mesh : Mesh
        Its surface.
    furthest : float
        Where to stop, in the units of the box.
    n : int
        Points on the surface.

    Returns
    -------
    float
        The median over the points; about ``furthest`` if the field never saturates.
    """
    points, normals = surface_points(mesh, n, torch.Generator().manual_seed(0))
    steps = torch.linspace(0, furthest, 101)[1:]
    ways = torch.cat([steps, -steps])
    walked = points[:, None] + ways[:, None].double() * normals[:, None]
    values = field(walked.reshape(-1, 3).float()).float().cpu().reshape(n, 2, len(steps)).abs()
    beyond = values >= _PLATEAU * values.max()
    first = torch.where(beyond, steps, torch.inf).amin(-1)
    return float(first.median()) / _PLATEAU


def _coarse_depth(depth: int, box: float, truncation: float | None) -> tuple[int, float]:
    """Return the depth that is evaluated whole, and the radius of balls that may hide from it."""
    coarse, reach = min(_COARSE, depth), math.inf
    if truncation is not None:
        if not truncation > 0:
            raise ValueError(f"truncation must be positive, got {truncation:g}.")
        reach = _PLATEAU * truncation
        while coarse < depth - 2 and 2 * box / 2**coarse * _HALF_DIAGONAL > reach:
            coarse += 1
    return coarse, max(0.0, 2 * box / 2**coarse * _HALF_DIAGONAL - reach)


def _slope(values: Tensor, side: float) -> float:
    """Return the steepest slope along an edge of the coarse lattice."""
    low, high = (torch.tensor([edge[k] for edge in EDGES], device=values.device) for k in (0, 1))
    steps = (values[:, low] - values[:, high]).abs()
    return _STEEPER * float(steps[steps.isfinite()].max()) / side


def _mixed(values: Tensor) -> Tensor:
    inside = values > 0
    return inside.any(1) & ~inside.all(1)


def _may_pass(ends: Tensor) -> Tensor:
    """Say whether a unit cube has a point as far from two opposite corners as ``ends (m, 2)``.

    The point that is farthest from both lies on an edge: beside neither corner if both are farther
    than 1, else beside the nearer one.
    """
    near, far = ends.aminmax(dim=1)
    beside_none = (near**2 - 1).clamp(min=0).sqrt() + (far**2 - 1).clamp(min=0).sqrt() <= 1
    beside_near = near <= 1 - (far**2 - 2).clamp(min=0).sqrt()
    return torch.where(near > 1, beside_none, beside_near)


class _Lattice:
    """Nodes of all levels in coordinates of the last one, each evaluated once.

    Nodes and cells reach one coarse cell beyond the box, where all is outside (minus infinity).
    """

    def __init__(
        self, field: Field, depth: int, box: float, level: float, chunk: int, device: torch.device
    ) -> None:
        self.field, self.depth, self.box, self.level = field, depth, box, level
        self.chunk, self.device, self.size = chunk, device, 2**depth
        self.known = torch.empty(0, dtype=torch.long, device=device)
        self.known_values = torch.empty(0, device=device)
        self.queries = 0
        self.corners = _CORNERS.to(device)

    def range(self) -> tuple[float, float]:
        """Return the least and the greatest value so far."""
        low, high = self.known_values.aminmax()
        return float(low) + self.level, float(high) + self.level

    def keys(self, nodes: Tensor) -> Tensor:
        """Return a number for each node or cell ``(..., 3)``."""
        x, y, z = (nodes + self.size).unbind(-1)
        return (x * 3 * self.size + y) * 3 * self.size + z

    def nodes(self, keys: Tensor) -> Tensor:
        """Invert :meth:`keys`."""
        span = 3 * self.size
        parts = keys // (span * span), keys // span % span, keys % span
        return torch.stack(parts, -1) - self.size

    def points(self, nodes: Tensor) -> Tensor:
        """Return where nodes are, in float64."""
        return nodes.double() * (2 * self.box / self.size) - self.box

    def all_cells(self, level: int) -> Tensor:
        """Return all cells of a level, and one layer around them."""
        return torch.cartesian_prod(*[torch.arange(-1, 2**level + 1, device=self.device)] * 3)

    def values(self, cells: Tensor, level: int) -> Tensor:
        """Return the field at the corners of cells ``(m, 3)`` of a level, as ``(m, 8)``."""
        return self.at((cells[:, None] + self.corners) << (self.depth - level))

    def at(self, nodes: Tensor) -> Tensor:
        """Return the field, less the level, at nodes ``(..., 3)``."""
        wanted, where = torch.unique(self.keys(nodes), return_inverse=True)
        at = self.nodes(wanted)
        beyond = ((at < 0) | (at > self.size)).any(1)
        new = wanted[~beyond & ~torch.isin(wanted, self.known, assume_unique=True)]
        if len(new):
            self._evaluate(new)
        found = torch.full((len(wanted),), -torch.inf, device=self.device)
        found[~beyond] = self.known_values[torch.searchsorted(self.known, wanted[~beyond])]
        return found[where]

    def _evaluate(self, keys: Tensor) -> None:
        points = self.points(self.nodes(keys)).float()
        made = [self.field(part).float().reshape(-1) for part in points.split(self.chunk)]
        values = torch.cat(made).to(self.device) - self.level
        if not values.isfinite().all():
            bad = points[~values.isfinite()]
            raise ValueError(
                f"the field is NaN or infinite at {len(bad)} of {len(points)} points, the first at "
                f"{bad[0].tolist()}; expected finite values."
            )
        self.queries += len(keys)
        self.known, order = torch.cat([self.known, keys]).sort()
        self.known_values = torch.cat([self.known_values, values])[order]

    def children(self, cells: Tensor, level: int, unit: float, plateau: float) -> Tensor:
        """Return the children of cells in which the surface may be.

        The middle of the parent is evaluated. A child has it and one corner of the parent at
        opposite corners, whose values tell how far they are from the surface at least; ``unit``
        is the value at the distance of a child's side.
        """
        children = cells[:, None] * 2 + self.corners
        outer = (cells[:, None] + self.corners) << (self.depth - level)
        middle = (2 * cells + 1) << (self.depth - level - 1)
        ends = torch.stack([self.at(outer), self.at(middle)[:, None].expand(-1, 8)], -1)
        ends = ends.flatten(0, 1)
        near = ends.abs().amin(1) <= plateau
        kept = _mixed(ends) | (near & _may_pass(ends.abs() / unit))
        return children.reshape(-1, 3)[kept]

    def follow(self, cells: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep cells that the surface passes, and add those that it goes on into."""
        mixed = _mixed(values)
        cells, values = cells[mixed], values[mixed]
        keys, fresh = self.keys(cells), (cells, values)
        while len(fresh[0]):
            further = []
            for axis in range(3):
                for high in (0, 1):
                    side = self.corners[:, axis] == high
                    step = torch.zeros(3, dtype=torch.long, device=self.device)
                    step[axis] = 2 * high - 1
                    further.append(self.keys(fresh[0][_mixed(fresh[1][:, side])] + step))
            wanted = torch.unique(torch.cat(further))
            new = self.nodes(wanted[~torch.isin(wanted, keys, assume_unique=True)])
            fresh = (new, self.values(new, self.depth))
            cells, values = torch.cat([cells, new]), torch.cat([values, fresh[1]])
            keys = torch.cat([keys, self.keys(new)])
        return cells, values


def _polygons(lattice: _Lattice, cells: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return vertices on the edges of cells, and the faces between them."""
    device = cells.device
    low, high, axes = torch.tensor(EDGES, device=device).unbind(1)
    crossed = (values[:, low] > 0) != (values[:, high] > 0)
    rows, edges = crossed.nonzero(as_tuple=True)
    starts = cells[rows] + lattice.corners[low[edges]]
    keys, vertex = torch.unique(lattice.keys(starts) * 3 + axes[edges], return_inverse=True)
    first = torch.full_like(keys, len(rows)).scatter_reduce_(
        0, vertex, torch.arange(len(rows), device=device), "amin"
    )
    a = values[rows[first], low[edges[first]]].double()
    b = values[rows[first], high[edges[first]]].double()
    share = torch.where(a.isinf(), 1.0, torch.where(b.isinf(), 0.0, a / (a - b)))
    margin = MARGIN * lattice.size / 2
    vertices = lattice.points(starts[first])
    step = 2 * lattice.box / lattice.size
    vertices[torch.arange(len(keys), device=device), keys % 3] += step * share.clamp(
        margin, 1 - margin
    )
    of_cell = torch.full((len(cells), 12), -1, device=device)
    of_cell[rows, edges] = vertex
    table, numbers = (each.to(device) for each in triangle_table())
    cases = ((values > 0).long() << torch.arange(8, device=device)).sum(1)
    used = torch.arange(table.shape[1], device=device) < numbers[cases, None]
    row, slot = used.nonzero(as_tuple=True)
    return vertices, of_cell[row[:, None], table[cases[row], slot]]
