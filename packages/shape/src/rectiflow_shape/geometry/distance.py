"""Signed distance to any mesh: negative inside, and how sure its sign is.

Inside is where the winding number of the oriented faces is above 1/2 (Jacobson et al., "Robust
inside-outside segmentation using generalized winding numbers", SIGGRAPH 2013, by the fast form of
Barill et al., SIGGRAPH 2018). The distance is that to the boundary of the inside: faces, or pieces
of faces where parts overlap, that have inside on both sides are not of it. Not the fast-winding
distance of libigl, which shrinks where the winding number is not whole.

A part by itself whose faces have neither a clear inside nor a clear outside, such as a leaf, is a
sheet: it has a distance, and an inside only if it is given a thickness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.geometry.overlaps import pieces
from rectiflow_shape.geometry.repair import orient
from rectiflow_shape.geometry.sampling import surface_points
from rectiflow_shape.geometry.topology import components, unit
from rectiflow_shape.geometry.winding import CLEAR, sides, soup, winding

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

SURE = 0.75
"""Confidence from which the sign is called sure."""

_ON = (
    1e-4  # of a shape of size 2: points of sheets that lie inside of solids are not on the surface
)

_CHUNK = 1 << 16


class SignedDistance:
    """Signed distance to a mesh, negative inside, in its own units and place.

    Parameters
    ----------
    mesh : Mesh
        Any; oriented here. Closed parts may overlap, be nested, have holes or be sheets.
    thickness : float, default 0
        Half of the thickness that sheets are given, in the mesh's units.

    Attributes
    ----------
    boundary : Mesh
        The surface of the inside, as a soup of triangles; sheets are not of it.
    sheet_share : float
        Share of the area that is of parts without an inside.

    Raises
    ------
    ValueError
        If the mesh has no faces.

    Examples
    --------
    >>> from rectiflow_shape.geometry.solids import box
    >>> SignedDistance(box())(torch.tensor([[0.5, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    tensor([-0.5000,  1.0000])
    """

    def __init__(self, mesh: Mesh, thickness: float = 0.0) -> None:
        import igl

        if not len(mesh.faces):
            raise ValueError("a signed distance needs faces, got none.")
        unit_mesh, self._to_unit, self._scale = unit(mesh)
        whole, _ = orient(unit_mesh)
        self._thickness = thickness / self._scale
        outside, inside = sides(whole.triangles, winding(whole))
        is_sheet = _sheets(whole, outside, inside)
        self._sheets = whole.of_faces(is_sheet) if is_sheet.any() else None
        self._solid = None
        sure, unsure = 0.0, float(whole.areas[is_sheet].sum())
        if not is_sheet.all():
            solids = whole.of_faces(~is_sheet)
            self._winding = winding(solids)
            triangles, _ = pieces(solids)
            outside, inside = sides(triangles, self._winding)
            hidden = np.minimum(outside, inside) > 0.5
            clear = (outside < CLEAR) & (inside > 1 - CLEAR)
            area = soup(triangles).areas
            sure, unsure = area[clear].sum(), unsure + area[~clear & ~hidden].sum()
            if not hidden.all():
                self._solid = soup(triangles[~hidden])
        self._confidence = float(sure / (sure + unsure)) if sure + unsure else 0.0
        self._trees = {}
        for name, part in (("solid", self._solid), ("sheets", self._sheets)):
            if part is not None:
                self._trees[name] = igl.AABB()
                self._trees[name].init(part.vertices, part.faces)

    @property
    def boundary(self) -> Mesh:
        """The surface of the inside, in the mesh's place."""
        found = self._solid or self._sheets
        assert found is not None
        return Mesh(self._to_unit.back(found.vertices), found.faces)

    @property
    def sheet_share(self) -> float:
        """Share of the area that is of parts without an inside."""
        solid, sheets = (
            0.0 if part is None else float(part.areas.sum()) for part in (self._solid, self._sheets)
        )
        return sheets / ((solid + sheets) or 1.0)

    def confidence(self) -> float:
        """Return how sure the sign is: the share of the outer area with a clear in and outside.

        A face is clear if the winding number is within a quarter of 0 before and of 1 behind it.
        1 for closed surfaces, 0 for sheets and for what encloses no volume.
        """
        return self._confidence

    def __call__(self, points: Float[Tensor, "q 3"]) -> Float[Tensor, " q"]:
        """Return the signed distance of points, of their dtype and device."""
        found, _ = self.nearest(points)
        return found

    def nearest(
        self, points: Float[Tensor, "q 3"]
    ) -> tuple[Float[Tensor, " q"], Float[Tensor, "q 3"]]:
        """Return the signed distance of points, and the nearest points of the surface."""
        asked = self._to_unit(points.detach().cpu().double().numpy())
        parts = [self._nearest(asked[k : k + _CHUNK]) for k in range(0, len(asked), _CHUNK)]
        values = np.concatenate([each[0] for each in parts] or [np.zeros(0)])
        closest = np.concatenate([each[1] for each in parts] or [np.zeros((0, 3))])
        return (
            torch.from_numpy(values * self._scale).to(points),
            torch.from_numpy(self._to_unit.back(closest)).to(points),
        )

    def surface(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Draw points uniformly on the surface of the inside, sheets with their thickness.

        Returns
        -------
        points, normals : Tensor, shape (n, 3)
            float64, in the mesh's units; normals look outward.
        """
        soups = [] if self._solid is None else [self._solid.triangles]
        if self._sheets is not None:
            flat, lift = self._sheets.triangles, self._sheets.crosses
            lift = self._thickness * lift / np.linalg.norm(lift, axis=1, keepdims=True)
            soups += [flat + lift[:, None], flat[:, ::-1] - lift[:, None]]
        whole = soup(np.concatenate(soups))
        made: list[tuple[Tensor, Tensor]] = []
        while sum(len(points) for points, _ in made) < n:
            points, normals = surface_points(whole, n, generator)
            if len(soups) > 1:  # sheets reach into solids
                on = torch.from_numpy(np.abs(self._nearest(points.numpy())[0]) < _ON)
                points, normals = points[on], normals[on]
            made.append((points, normals))
        points, normals = (torch.cat(each)[:n] for each in zip(*made, strict=True))
        return points * self._scale + torch.from_numpy(self._to_unit.centre), normals

    def _nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, closest = np.full(len(points), np.inf), np.zeros((len(points), 3))
        if self._solid is not None:
            squares, _, closest = self._trees["solid"].squared_distance(
                self._solid.vertices, self._solid.faces, points
            )
            values = np.where(self._winding(points) > 0.5, -1, 1) * np.sqrt(squares)
        if self._sheets is not None:
            squares, _, there = self._trees["sheets"].squared_distance(
                self._sheets.vertices, self._sheets.faces, points
            )
            distance = np.sqrt(squares) - self._thickness
            nearer = distance < values
            values = np.where(nearer, distance, values)
            closest = np.where(nearer[:, None], there, closest)
        return values, closest


def _sheets(whole: Mesh, outside: np.ndarray, inside: np.ndarray) -> Bool[np.ndarray, " f"]:
    """Say which faces are of parts most of whose outer area has no clear inside."""
    part: Int[np.ndarray, " f"] = components(whole.faces)
    hidden = np.minimum(outside, inside) > 0.5
    clear = hidden | ((outside < CLEAR) & (inside > 1 - CLEAR))
    area = whole.areas
    share = np.bincount(part, area * clear) / np.bincount(part, area)
    return share[part] < 0.5
