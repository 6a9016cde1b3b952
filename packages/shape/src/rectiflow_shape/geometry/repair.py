"""What can be mended of a mesh, and what has to be said of it.

Faces with vertices that are not finite, without area, or given twice are dropped; vertices are
welded within :data:`~rectiflow_shape.geometry.topology.WELD` of the size. Windings are made
consistent within each patch (faces joined by edges of two faces), as most of its area was wound.
Patches that are closed and lie in no other look outward. One within another is a cavity if it was
wound the other way round than what holds it, or in no consistent way; wound the same way it is a
solid within a solid, and its faces are not of the surface. Open patches that together enclose a
negative volume are turned together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.topology import components, edge_uses, is_closed, nesting, weld
from rectiflow_shape.geometry.winding import hidden_share

if TYPE_CHECKING:
    from jaxtyping import Float, Int

FLAT = 1e-9
"""A closed shape with less volume than this share of its box's cubed side has none."""

_COLLINEAR = 1e-12  # area over the square of the longest edge


@dataclass(frozen=True)
class RepairReport:
    """What was found in a mesh and what was done.

    Attributes
    ----------
    nonfinite, degenerate, duplicates : int
        Faces dropped for a vertex that is NaN or infinite, for having no area, for being given
        twice.
    welded : int
        Vertices joined with others at the same place; seams of texture and normals have many.
    unused : int
        Vertices without a face.
    turned : int
        Faces whose winding was turned.
    inverted, cavities, nested : int
        Patches turned as a whole, inner shells that bound a hollow, solids within solids.
    open_edges, crowded_edges : int
        Edges with one face, and with more than two.
    touching : int
        Vertices where parts touch without an edge: not manifold.
    parts, closed : int
        Parts by shared edges, and those of them without an open edge.
    hidden : float
        Share of the area (of some faces) that lies inside: parts overlap.
    flat : bool
        Whether it encloses no volume.
    notes : tuple of str
        What the file's format says or does not say.
    """

    nonfinite: int = 0
    degenerate: int = 0
    duplicates: int = 0
    welded: int = 0
    unused: int = 0
    turned: int = 0
    inverted: int = 0
    cavities: int = 0
    nested: int = 0
    open_edges: int = 0
    crowded_edges: int = 0
    touching: int = 0
    parts: int = 0
    closed: int = 0
    hidden: float = 0.0
    flat: bool = False
    notes: tuple[str, ...] = ()

    @property
    def mended(self) -> bool:
        """Whether faces were dropped or turned."""
        return any((self.nonfinite, self.degenerate, self.duplicates, self.turned))

    def sentences(self) -> list[str]:
        """Say all of it that is not as it should be."""
        said = (
            (self.nonfinite, "dropped {} faces with a vertex that is NaN or infinite"),
            (self.degenerate, "dropped {} degenerate faces (zero area)"),
            (self.duplicates, "dropped {} duplicate faces"),
            (self.welded, "welded {} vertices with others at the same place"),
            (self.unused, "dropped {} vertices that no face uses"),
            (self.turned, "turned the winding of {} faces"),
            (self.inverted, "{} parts were wound inward as a whole"),
            (self.cavities, "{} inner shells bound a cavity"),
            (self.nested, "{} closed parts lie inside others, wound like them: solid, not hollow"),
            (self.open_edges, "it is not closed: {} boundary edges are open"),
            (self.crowded_edges, "{} edges are not manifold (more than two faces)"),
            (self.touching, "{} vertices are not manifold (parts touch in a point)"),
            (self.parts > 1 and self.parts, "{} parts"),
            (round(100 * self.hidden), "parts overlap or intersect: {} % of the area lies inside"),
            (self.flat, "it encloses no volume (flat)"),
        )
        return [text.format(value) for value, text in said if value] + list(self.notes)

    def __str__(self) -> str:
        return "; ".join(self.sentences()) or "nothing to repair"


def repair(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Mesh, RepairReport]:
    """Mend what can be mended of triangles, in their own place and size.

    Parameters
    ----------
    vertices : ndarray, shape (v, 3)
        May hold NaN, infinities and repetitions.
    faces : ndarray, shape (f, 3)
        Indices, each of a vertex.

    Raises
    ------
    ValueError
        If no face with an area is left.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    finite = np.isfinite(vertices).all(1)
    good = finite[faces].all(1)
    used = np.zeros(len(vertices), bool)
    used[faces[good]] = True
    place = np.cumsum(used) - 1
    joined, where = weld(vertices[used]) if used.any() else (vertices[:0], place[:0])
    rows = where[place[faces[good]]] if used.any() else faces[:0]
    rows, degenerate = _without_degenerate(joined, rows)
    _, first = np.unique(np.sort(rows, 1), axis=0, return_index=True)
    found = RepairReport(
        nonfinite=int((~good).sum()),
        degenerate=degenerate,
        duplicates=len(rows) - len(first),
        welded=int(used.sum()) - len(joined),
        unused=len(vertices) - int(used.sum()),
    )
    if not len(first):
        raise ValueError(f"no face with an area, got {len(faces)} faces ({found})")
    mesh, found = orient(Mesh(joined, np.empty((0, 3))).of_faces(rows[np.sort(first)]), found)
    return mesh, _described(mesh, found)


def _without_degenerate(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, int]:
    corners = vertices[faces]
    sides = corners - np.roll(corners, 1, axis=1)
    longest = (sides**2).sum(2).max(1, initial=0)
    with np.errstate(under="ignore"):
        scale = np.sqrt(longest)[:, None]
        scale[scale == 0] = 1
        area = np.linalg.norm(np.cross(sides[:, 0] / scale, sides[:, 1] / scale), axis=1)
    kept = (longest > 0) & (area > _COLLINEAR)
    return faces[kept], int((~kept).sum())


def orient(mesh: Mesh, found: RepairReport | None = None) -> tuple[Mesh, RepairReport]:
    """Wind all faces as the module says; return what was done in a report."""
    import igl

    found = found or RepairReport()
    if not len(mesh.faces):
        return mesh, found
    smooth, patch = igl.bfs_orient(mesh.faces)
    turned = _is_turned(mesh.faces, smooth)
    area = mesh.areas
    total = np.bincount(patch, area)
    minority = np.bincount(patch, area * turned) / np.maximum(total, np.finfo(float).tiny)
    as_most = minority > 0.5
    minority = np.minimum(minority, 1 - minority)
    turned ^= as_most[patch]
    wound = Mesh(mesh.vertices, np.where(turned[:, None], mesh.faces[:, ::-1], mesh.faces))
    signs, inverted, cavities, nested = _signs(wound, patch, minority > 0.01)
    flip = signs[patch] < 0
    turned ^= flip
    faces = np.where(turned[:, None], mesh.faces[:, ::-1], mesh.faces)
    return Mesh(mesh.vertices, faces), replace(
        found, turned=int(turned.sum()), inverted=inverted, cavities=cavities, nested=nested
    )


def _is_turned(faces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Say which rows go round the other way."""
    first = faces.argmin(1)
    second = others.argmin(1)
    rows = np.arange(len(faces))
    return faces[rows, (first + 1) % 3] != others[rows, (second + 1) % 3]


def _signs(mesh: Mesh, patch: np.ndarray, mixed: np.ndarray) -> tuple[np.ndarray, int, int, int]:
    """Return 1 or -1 for each patch, and how many are inverted, cavities and nested solids."""
    closed = is_closed(mesh.faces, patch)
    volumes = np.bincount(patch, mesh.face_volumes)
    signs = np.ones(len(closed), int)
    inverted = cavities = solids = 0
    final: dict[int, int] = {}
    holders = nesting(mesh, patch)
    for part in sorted(np.flatnonzero(closed), key=lambda k: len(holders[k])):
        given = 1 if volumes[part] >= 0 else -1
        wanted = 1
        if holders[part]:
            holder = max(holders[part], key=lambda k: len(holders[k]))
            like = given * (1 if volumes[holder] >= 0 else -1) > 0 and not mixed[part]
            wanted = -1 if final[holder] > 0 and not like else 1
            cavities += wanted < 0
            solids += wanted > 0 and final[holder] > 0
        else:
            inverted += given < 0
        final[int(part)] = wanted
        signs[int(part)] = wanted * given
    apart = volumes[~closed].sum()
    if apart < -1e-3 * np.abs(mesh.face_volumes[~closed[patch]]).sum():
        signs[~closed] = -1
        inverted += int((~closed).sum())
    return signs, inverted, cavities, solids


def _described(mesh: Mesh, found: RepairReport) -> RepairReport:
    """Add to a report what the mesh is like."""
    import igl

    uses, _, _ = edge_uses(mesh.faces)
    parts = components(mesh.faces)
    fans = igl.is_vertex_manifold(mesh.faces) if (uses <= 2).all() else np.ones(0, bool)
    side = float(np.ptp(mesh.bounds, axis=0).max())
    return replace(
        found,
        open_edges=int((uses == 1).sum()),
        crowded_edges=int((uses > 2).sum()),
        touching=int((~fans).sum()),
        parts=int(parts.max()) + 1,
        closed=int(is_closed(mesh.faces, parts).sum()),
        hidden=hidden_share(mesh),
        flat=bool(abs(mesh.volume / side**3) < FLAT),
    )
