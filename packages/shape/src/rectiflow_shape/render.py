"""Pictures of meshes without a graphics library: a z-buffer in numpy.

::

    picture = render(mesh, Camera(azimuth=30, elevation=20), 256)
    picture.colour, picture.normals, picture.depth, picture.mask
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectiflow_shape.geometry.mesh import Mesh

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, UInt8

_FILM = 36.0  # mm, width of a frame that focal lengths are told for
_FOCAL = (50.0, 85.0, 135.0)
_MARGIN = 1.15  # so that a shape in the unit ball fits into the frame
_PAIRS = 1 << 22  # of pixels and triangles at once


@dataclass(frozen=True)
class Camera:
    """Looks at the origin, y up.

    Parameters
    ----------
    azimuth, elevation : float
        Degrees; 0 and 0 looks from +z, 90 and 0 from +x.
    view : float
        Field of view in degrees, 0 for orthographic.
    away : float, optional
        Distance from the origin; that at which the unit ball fills the frame if absent.
    """

    azimuth: float = 30.0
    elevation: float = 20.0
    view: float = 30.0
    away: float | None = None

    @property
    def distance(self) -> float:
        """From the origin."""
        if self.away is not None:
            return self.away
        return _MARGIN / math.sin(math.radians(self.view) / 2) if self.view else 4.0

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """Azimuth, elevation, field of view and distance."""
        return self.azimuth, self.elevation, self.view, self.distance

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Right, up and backward in the world, as rows."""
        a, e = math.radians(self.azimuth), math.radians(self.elevation)
        back = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
        right = np.array([math.cos(a), 0.0, -math.sin(a)])
        return np.stack([right, np.cross(back, right), back])

    def towards(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Return the way from points to the camera, of any length."""
        back = torch.from_numpy(self.axes[2]).to(points)
        return self.distance * back - points if self.view else back.expand_as(points)

    def rays(self, size: int) -> Float[Tensor, "s s 3"]:
        """Return the unit direction from what each pixel shows to the camera."""
        at = torch.linspace(1 / size - 1, 1 - 1 / size, size, dtype=torch.float64)
        reach = math.tan(math.radians(self.view) / 2)
        y, x = torch.meshgrid(reach * at, reach * at, indexing="ij")
        local = torch.stack([-x, y, torch.ones_like(x)], -1)
        return (local / local.norm(dim=-1, keepdim=True)) @ torch.from_numpy(self.axes)

    def project(
        self, points: Float[Tensor, "n 3"], size: int
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """Return where points are in a picture, in pixels from its upper left, and how far."""
        seen = points @ torch.from_numpy(self.axes).to(points).T
        away = self.distance - seen[:, 2]
        scale = torch.full_like(away, size / 2 / _MARGIN)
        if self.view:
            scale = size / 2 / math.tan(math.radians(self.view) / 2) / away.clamp_min(1e-6)
        return torch.stack([size / 2 + seen[:, 0] * scale, size / 2 - seen[:, 1] * scale], 1), away


@dataclass(frozen=True)
class Picture:
    """What a camera sees.

    Attributes
    ----------
    colour : Tensor, shape (s, s, 3)
        uint8, grey clay on white.
    normals : Tensor, shape (s, s, 3)
        In the world, looking at the camera; 0 where nothing is.
    depth : Tensor, shape (s, s)
        Along the view; infinite where nothing is.
    mask : Tensor, shape (s, s)
        Where something is.
    """

    colour: UInt8[Tensor, "s s 3"]
    normals: Float[Tensor, "s s 3"]
    depth: Float[Tensor, "s s"]
    mask: Bool[Tensor, "s s"]


def random_cameras(n: int, generator: torch.Generator | None = None) -> list[Camera]:
    """Draw views as TripoSG's data has them: from the front, focal lengths of a 36 mm film.

    Azimuth -90 to 90 degrees around +z, elevation -15 to 30; orthographic, 50, 85, 135 mm, and
    two in three of the rest 35 to 65 mm.
    """
    cameras = []
    for _ in range(n):
        a, e, which, u = torch.rand(4, generator=generator).tolist()
        kind = int(which * 6)
        focal = 0.0 if kind == 0 else _FOCAL[kind - 1] if kind <= 3 else 35 + 30 * u
        view = math.degrees(2 * math.atan(_FILM / 2 / focal)) if focal else 0.0
        cameras.append(Camera(180 * a - 90, 45 * e - 15, view))
    return cameras


def render(mesh: Mesh, camera: Camera | None = None, size: int = 256) -> Picture:
    """Draw a mesh that lies in the unit ball, lit from the camera and from above.

    Faces are seen from both sides.
    """
    camera = camera or Camera()
    axes = camera.axes
    screen, away = (x.numpy() for x in camera.project(torch.from_numpy(mesh.vertices), size))
    depth, face = visible(screen[mesh.faces], away[mesh.faces], size)
    mask = face >= 0
    crosses = mesh.crosses / np.maximum(np.linalg.norm(mesh.crosses, axis=1, keepdims=True), 1e-30)
    normals = np.where(mask[..., None], crosses[face], 0.0)
    toward = camera.rays(size).numpy()
    normals *= np.where((normals * toward).sum(2, keepdims=True) < 0, -1, 1)
    lights = np.stack([axes[2], np.array([0.3, 0.9, 0.3])])
    shade = 0.25 + (normals @ (lights / np.linalg.norm(lights, axis=1, keepdims=True)).T).clip(
        0
    ) @ np.array([0.4, 0.3])
    colour = np.where(mask, np.round(255 * shade.clip(0, 1)), 255).astype(np.uint8)
    return Picture(
        torch.from_numpy(np.repeat(colour[..., None], 3, 2)),
        torch.from_numpy(normals.astype(np.float32)),
        torch.from_numpy(depth.astype(np.float32)),
        torch.from_numpy(mask),
    )


def visible(corners: np.ndarray, away: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pixel how far the nearest triangle is, and which it is (-1 for none).

    ``corners (f, 3, 2)`` are in pixels, ``away (f, 3)`` is along the view.
    """
    low = np.ceil(corners.min(1) - 0.5).astype(int).clip(0, size)
    high = np.floor(corners.max(1) - 0.5).astype(int).clip(-1, size - 1)
    extent = (high - low + 1).clip(0)
    counts = extent.prod(1)
    depth, face = np.full(size * size, np.inf), np.full(size * size, -1)
    edges = np.arange(0, counts.sum() + _PAIRS, _PAIRS)
    stops = np.unique([0, *np.searchsorted(np.cumsum(counts), edges, "right"), len(counts)])
    for start, stop in itertools.pairwise(stops):
        part = counts[start:stop]
        t = np.repeat(np.arange(start, stop), part)
        k = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        x, y = low[t, 0] + k % extent[t, 0], low[t, 1] + k // extent[t, 0]
        a, b, c = np.moveaxis(corners[t] - np.stack([x + 0.5, y + 0.5], 1)[:, None], 1, 0)
        weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], 1)
        area = weights.sum(1)
        inside = (area != 0) & ((weights * np.sign(area)[:, None]) >= 0).all(1)
        t, pixel = t[inside], (y * size + x)[inside]
        shares = weights[inside] / area[inside, None]
        far = 1 / (shares / np.maximum(away[t], 1e-6)).sum(1)  # perspective is linear in 1/depth
        order = np.lexsort((far, pixel))
        first = order[np.unique(pixel[order], return_index=True)[1]]
        nearer = first[far[first] < depth[pixel[first]]]
        depth[pixel[nearer]], face[pixel[nearer]] = far[nearer], t[nearer]
    return depth.reshape(size, size), face.reshape(size, size)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def contact_sheet(
    pictures: Sequence[UInt8[Tensor, "s s 3"]], columns: int
) -> UInt8[Tensor, "h w 3"]:
    """Lay pictures of one size out in rows, white where there is none."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    sheet = torch.full((rows * size, columns * size, 3), 255, dtype=torch.uint8)
    for k, picture in enumerate(pictures):
        y, x = divmod(k, columns)
        sheet[y * size : (y + 1) * size, x * size : (x + 1) * size] = picture
    return sheet
