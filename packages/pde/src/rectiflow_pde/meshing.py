"""Channels with a cylinder, and triangles for them: fine at the cylinder and in its wake.

Nodes are spread by a low-discrepancy sequence as densely as a wanted edge length asks, then moved
like joints of a truss whose bars push until they have that length (Persson and Strang, "A simple
mesh generator in MATLAB", SIAM Review 2004), with the boundary held. Nothing is drawn at random:
the same channel has the same mesh everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.mesh import Mesh, NodeType, boundary_edges, signed_areas

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FEWEST_EDGES = 12
"""Around a cylinder; with fewer the polygon is more than 5 % smaller than the circle."""

_SWEEPS = 60
_PUSH = 1.2  # bars are this much longer at rest than wanted, so that they fill the domain
_STEP = 0.2


@dataclass(frozen=True)
class Channel:
    """A channel ``[0, length] x [0, height]`` around a cylinder, or empty.

    Attributes
    ----------
    radius : float
        Of the cylinder in metres; 0 leaves it out.
    centre : tuple of float
        Metres.
    length, height : float
        Metres; those of the MeshGraphNets data by default.

    Raises
    ------
    ValueError
        If the cylinder is not wholly inside.
    """

    radius: float = 0.05
    centre: tuple[float, float] = (0.3, 0.2)
    length: float = 1.6
    height: float = 0.41

    def __post_init__(self) -> None:
        sizes = (self.radius, *self.centre, self.length, self.height)
        if not all(map(math.isfinite, sizes)) or min(self.length, self.height) <= 0:
            raise ValueError(f"a channel needs finite, positive sizes, got {self}.")
        if self.radius < 0:
            raise ValueError(f"the radius must be positive, got {self.radius:g} m.")
        if not self.radius:
            return
        (x, y), r = self.centre, self.radius
        gaps = self._gaps()
        gap = min(gaps)
        sides = ("inflow", "outflow", "lower wall", "upper wall")
        if gap < 1e-3 * self.height:
            side = sides[gaps.index(gap)]
            raise ValueError(
                f"the cylinder of radius {r:g} m at ({x:g}, {y:g}) leaves a gap of {gap:.3g} m to "
                f"the {side} of the channel; expected it wholly inside {self.length:g} x "
                f"{self.height:g} m. Move it, or make it smaller."
            )

    @property
    def gap(self) -> float:
        """Least distance in metres of the cylinder from a side."""
        return min(self._gaps())

    def _gaps(self) -> tuple[float, float, float, float]:
        (x, y), r = self.centre, self.radius
        return x - r, self.length - x - r, y - r, self.height - y - r


def mesh_channel(
    channel: Channel,
    edge: float | None = None,
    far: float | None = None,
    *,
    wake: float | None = None,
) -> Mesh:
    """Triangulate a channel.

    Parameters
    ----------
    channel : Channel
    edge : float, optional
        Length in metres of edges on the cylinder; a 28th of its circumference by default.
    far : float, optional
        Length far from it; a tenth of the height by default.
    wake : float, optional
        Length up to seven diameters behind it; two thirds of ``far`` by default.

    Returns
    -------
    Mesh

    Raises
    ------
    ValueError
        If fewer than 12 edges would go around the cylinder, or one would not fit between it and
        a wall.
    """
    around = 2 * math.pi * channel.radius
    far = channel.height / 10 if far is None else far
    if edge is None:
        edge = around / 28 if channel.radius else far
    if not far > 0:
        raise ValueError(f"edge lengths must be positive, got {far:g} m.")
    require_edges(channel, edge)
    far = max(far, edge)
    count = round(around / edge)
    size = _Size(channel, edge, far, 2 / 3 * far if wake is None else wake)
    fixed, types = _boundary(channel, size, count)
    points = _relax(channel, size, fixed, _spread(channel, size, fixed))
    triangles = _triangulate(points, channel)
    used = np.unique(triangles)
    if len(used) < len(points):  # none so far; would be a node hidden behind the cylinder
        points, triangles = points[used], np.searchsorted(used, triangles)
    kinds = np.full(len(points), int(NodeType.FLUID))
    kinds[: len(fixed)] = types
    mesh = Mesh(points, triangles, kinds)
    if len(boundary_edges(triangles)) != len(fixed):
        raise ValueError(f"{channel} could not be meshed with edges of {edge:g} m; take others.")
    return mesh


def require_edges(channel: Channel, edge: float) -> None:
    """Refuse edges on the cylinder that cannot show it, or the gap beside it.

    Raises
    ------
    ValueError
        With the longest edge that could.
    """
    if not edge > 0:
        raise ValueError(f"the edge length must be positive, got {edge:g} m.")
    around = 2 * math.pi * channel.radius
    if channel.radius and round(around / edge) < FEWEST_EDGES:
        raise ValueError(
            f"edges of {edge:g} m are too coarse: {round(around / edge)} around the cylinder of "
            f"radius {channel.radius:g} m, expected at least {FEWEST_EDGES}. Take edges of at most "
            f"{around / FEWEST_EDGES:.3g} m."
        )
    if channel.radius and channel.gap < 1.5 * edge:
        raise ValueError(
            f"edges of {edge:g} m are too coarse for the gap of {channel.gap:.3g} m beside the "
            f"cylinder; expected at most {channel.gap / 1.5:.3g} m."
        )


@dataclass(frozen=True)
class _Size:
    """Wanted edge length at a place."""

    channel: Channel
    edge: float
    far: float
    wake: float

    def __call__(self, x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
        channel, edge = self.channel, self.edge
        if not channel.radius:
            return np.full(len(x), self.far)
        cx, cy = channel.centre
        away = np.hypot(x[:, 0] - cx, x[:, 1] - cy) - channel.radius
        near = edge + 0.13 * np.maximum(away, 0)
        reach = 14 * channel.radius  # of the fine wake
        behind = np.maximum(np.maximum(cx - x[:, 0], x[:, 0] - cx - reach), 0)
        beside = np.maximum(np.abs(x[:, 1] - cy) - 3 * channel.radius, 0)
        wake = max(self.wake, edge) + 0.2 * np.hypot(behind, beside)
        return np.minimum(np.minimum(near, wake), self.far)


def _boundary(
    channel: Channel, size: _Size, count: int
) -> tuple[Float[np.ndarray, "k 2"], Int[np.ndarray, " k"]]:
    """Nodes on the boundary and their kinds; corners are wall."""
    length, height = channel.length, channel.height
    corners = np.array([(0.0, 0.0), (length, 0.0), (length, height), (0.0, height)])
    kinds = (NodeType.WALL, NodeType.OUTFLOW, NodeType.WALL, NodeType.INFLOW)
    points, types = [], []
    for start, end, kind in zip(corners, np.roll(corners, -1, 0), kinds, strict=True):
        side = _graded(start, end, size)
        points.append(side)
        types += [int(NodeType.WALL)] + [int(kind)] * (len(side) - 1)
    if channel.radius:
        angle = 2 * np.pi * np.arange(count) / count
        ring = np.stack([np.cos(angle), np.sin(angle)], 1)
        points.append(np.asarray(channel.centre) + channel.radius * ring)
        types += [int(NodeType.OBSTACLE)] * count
    return np.concatenate(points), np.array(types)


def _graded(start: np.ndarray, end: np.ndarray, size: _Size) -> Float[np.ndarray, "k 2"]:
    """Nodes from a corner to before the next, as dense as wanted."""
    along = np.linspace(0, 1, 2001)
    density = 1 / size(start + along[:, None] * (end - start))
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(along))])
    count = max(round(mass[-1] * float(np.linalg.norm(end - start))), 2)
    places = np.interp(np.arange(count) / count * mass[-1], mass, along)
    return start + places[:, None] * (end - start)


def _spread(channel: Channel, size: _Size, fixed: np.ndarray) -> Float[np.ndarray, "k 2"]:
    """Inner nodes as dense as wanted, by rejection from a Halton sequence in three dimensions."""
    from scipy.spatial import cKDTree
    from scipy.stats import qmc

    box = np.array([channel.length, channel.height])
    smallest = size.edge if channel.radius else size.far
    # A lattice of equilateral triangles of side h has 2 / (sqrt(3) h²) nodes per area.
    count = math.ceil(2 / math.sqrt(3) / smallest**2 * box.prod())
    draws = qmc.Halton(3, scramble=False).random(count)
    points = draws[:, :2] * box
    points = points[draws[:, 2] < (smallest / size(points)) ** 2]
    wanted = size(points)
    clear = cKDTree(fixed).query(points)[0] > 0.6 * wanted
    return points[clear & _inside(points, channel, 0.5 * wanted)]


def _inside(points: np.ndarray, channel: Channel, margin: np.ndarray) -> np.ndarray:
    """Which nodes keep a distance from the boundary."""
    x, y = points.T
    walls = np.minimum(np.minimum(x, channel.length - x), np.minimum(y, channel.height - y))
    away = np.hypot(x - channel.centre[0], y - channel.centre[1]) - channel.radius
    return (np.minimum(walls, away) if channel.radius else walls) > margin


def _relax(
    channel: Channel, size: _Size, fixed: np.ndarray, inner: np.ndarray
) -> Float[np.ndarray, "n 2"]:
    """Move the inner nodes until the bars between them have the wanted lengths."""
    n = len(fixed)
    points = np.concatenate([fixed, inner])
    for _ in range(_SWEEPS):
        triangles = _triangulate(points, channel)
        bars = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0)
        along = points[bars[:, 0]] - points[bars[:, 1]]
        lengths = np.linalg.norm(along, axis=1)
        wanted = size(points[bars].mean(1))
        rest = _PUSH * wanted * np.sqrt((lengths**2).sum() / (wanted**2).sum())
        push = (np.maximum(rest - lengths, 0) / lengths)[:, None] * along
        move = np.zeros_like(points)
        for axis in (0, 1):
            move[:, axis] = np.bincount(bars[:, 0], push[:, axis], minlength=len(points))
            move[:, axis] -= np.bincount(bars[:, 1], push[:, axis], minlength=len(points))
        moved = points[n:] + _STEP * move[n:]
        stays = _inside(moved, channel, 0.4 * size(moved))  # no slivers along the boundary
        points[n:] = np.where(stays[:, None], moved, points[n:])
    return points


def _triangulate(points: np.ndarray, channel: Channel) -> Int[np.ndarray, "m 3"]:
    """Delaunay triangles outside the cylinder, counter-clockwise, without flat ones."""
    from scipy.spatial import Delaunay

    triangles = Delaunay(points).simplices.astype(np.int64)
    areas = signed_areas(points, triangles)
    triangles = np.where((areas < 0)[:, None], triangles[:, ::-1], triangles)
    middle = points[triangles].mean(1)
    away = np.hypot(middle[:, 0] - channel.centre[0], middle[:, 1] - channel.centre[1])
    keep = np.abs(areas) > 1e-12 * channel.length * channel.height
    return triangles[keep & (away > channel.radius * (1 - 1e-9))]
