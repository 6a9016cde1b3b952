"""What is promised of a mesh that is written: watertight, manifold, outward, within a budget."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.topology import (
    components,
    edge_uses,
    is_closed,
    nesting,
    weld,
)

if TYPE_CHECKING:
    from jaxtyping import Int

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """What a mesh is after vertices at exactly the same place are joined, as any reader may do.

    Attributes
    ----------
    faces, components : int
        How many, by shared edges.
    open_edges, crowded_edges, touching : int
        Edges with one face, edges with more than two, and vertices that belong to several fans.
    duplicates, degenerate : int
        Faces given twice, and faces without area.
    inward : int
        Edges that both faces run through the same way, and closed parts that look inward without
        bounding a cavity.
    budget : int or None
        Most faces that were asked for.
    volume, area : float
        In the mesh's units.
    """

    faces: int
    components: int
    open_edges: int
    crowded_edges: int
    touching: int
    duplicates: int
    degenerate: int
    inward: int
    budget: int | None
    volume: float
    area: float

    @property
    def watertight(self) -> bool:
        """Whether every edge has exactly two faces."""
        return self.faces > 0 and not self.open_edges and not self.crowded_edges

    @property
    def manifold(self) -> bool:
        """Whether the surface is a sheet around every vertex, without faces twice or degenerate."""
        return not (self.crowded_edges or self.touching or self.duplicates or self.degenerate)

    @property
    def outward(self) -> bool:
        """Whether all faces look away from what is inside."""
        return self.faces > 0 and not self.inward

    @property
    def within_budget(self) -> bool:
        """Whether it has no more faces than were asked for."""
        return self.budget is None or self.faces <= self.budget

    @property
    def passed(self) -> bool:
        """Whether all of it holds."""
        return self.watertight and self.manifold and self.outward and self.within_budget

    def document(self) -> dict[str, int | float | bool | None]:
        """Return it as ``result.json`` has it."""
        verdicts = ("watertight", "manifold", "outward", "within_budget", "passed")
        return {**{name: getattr(self, name) for name in verdicts}, **vars(self)}

    def faults(self) -> list[str]:
        """Say what keeps it from passing."""
        said = (
            (self.faces == 0, "it has no faces"),
            (self.open_edges, f"{self.open_edges} edges are open"),
            (self.crowded_edges, f"{self.crowded_edges} edges have more than two faces"),
            (self.touching, f"{self.touching} vertices are not manifold"),
            (self.duplicates, f"{self.duplicates} faces are given twice"),
            (self.degenerate, f"{self.degenerate} faces have no area"),
            (self.inward, f"{self.inward} edges or parts look inward"),
            (not self.within_budget, f"{self.faces} faces where {self.budget} were wanted"),
        )
        return [text for wrong, text in said if wrong]


def certificate(mesh: Mesh, faces: int | None = None) -> Certificate:
    """Check a mesh.

    Parameters
    ----------
    mesh : Mesh
        As it is; the file that was written should be read again for it.
    faces : int, optional
        The budget.
    """
    import igl

    vertices, where = weld(mesh.vertices, 0.0)
    rows = where[mesh.faces]
    whole = Mesh(vertices, rows)
    if not len(rows):
        return Certificate(0, 0, 0, 0, 0, 0, 0, 0, faces, 0.0, 0.0)
    uses, edge, direction = edge_uses(rows)
    balance = np.bincount(edge, direction)
    parts = components(rows)
    collapsed = (rows == np.roll(rows, 1, 1)).any(1)
    used = np.unique(rows)
    fans = igl.is_vertex_manifold(rows)[used] if uses.max() <= 2 else np.ones(len(used), bool)
    return Certificate(
        faces=len(rows),
        components=int(parts.max()) + 1,
        open_edges=int((uses == 1).sum()),
        crowded_edges=int((uses > 2).sum()),
        touching=int((~fans).sum()),
        duplicates=len(rows) - len(np.unique(np.sort(rows, 1), axis=0)),
        degenerate=int((collapsed | ~(whole.areas > 0)).sum()),
        inward=int(((uses == 2) & (balance != 0)).sum()) + _inward_parts(whole, parts),
        budget=faces,
        volume=whole.volume,
        area=float(whole.areas.sum()),
    )


def _inward_parts(mesh: Mesh, parts: Int[np.ndarray, " f"]) -> int:
    """Count closed parts that look inward and lie in no other, or in as many as bound hollows."""
    volumes = np.bincount(parts, mesh.face_volumes)
    inward = is_closed(mesh.faces, parts) & (volumes <= 0)
    if not inward.any():
        return 0
    holders = nesting(mesh, parts)
    solid = [sum(1 if volumes[k] > 0 else -1 for k in held) > 0 for held in holders]
    return int((inward & ~np.array(solid)).sum())


def largest(mesh: Mesh) -> Mesh:
    """Keep the part of the largest volume, with the cavities in it."""
    parts = components(mesh.faces)
    volumes = np.bincount(parts, mesh.face_volumes)
    if len(volumes) == 1:
        return mesh
    best = int(volumes.argmax())
    hollows = [k for k, held in enumerate(nesting(mesh, parts)) if held == [best]]
    kept = [best, *(k for k in hollows if volumes[k] < 0)]
    return mesh.of_faces(np.isin(parts, kept))


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """Reduce a manifold mesh to at most so many faces by quadric edge collapse, kept manifold.

    Parameters
    ----------
    mesh : Mesh
        Watertight and manifold.
    faces : int
        At least 4 a part. Fewer than the shape's holes need cannot be had: then what can be is
        returned, and a warning logged.

    Raises
    ------
    ValueError
        If the mesh is not watertight and manifold, or ``faces`` is less than 4.

    References
    ----------
    Garland and Heckbert, "Surface simplification using quadric error metrics" (SIGGRAPH 1997), by
    libigl, which refuses collapses that change the topology.
    """
    import igl

    if faces < 4:
        raise ValueError(f"faces must be at least 4, a tetrahedron, got {faces}.")
    if len(mesh.faces) <= faces:
        return mesh
    before = certificate(mesh)
    if not (before.watertight and before.manifold):
        raise ValueError(
            f"decimation needs a watertight manifold mesh, got one where {before.faults()[0]}; "
            "extract it from a field first."
        )
    vertices, rows, _, _ = igl.qslim(
        np.asfortranarray(mesh.vertices), np.asfortranarray(mesh.faces.astype(np.int32)), faces
    )
    made = Mesh(vertices, np.empty((0, 3))).of_faces(rows.astype(np.int64))
    after = certificate(made, faces)
    if not after.passed:
        log.warning("decimation: %s", "; ".join(after.faults()))
    return made
