"""A mesh of normal maps from several sides: the last stage of Direct2.5.

::

    fused = fuse_normals(normals, masks, cameras)
    fused.mesh, fused.hull, fused.errors

The start is the visual hull, the largest body within all masks. It is then moved so that its
rendered normals and outlines are those of the maps. The losses and their weights are the published
ones, and as published the mesh is remeshed while it moves. Ours are two things: the gradient is
smoothed over the surface (Nicolet et al.), where theirs is pulled towards the mean of neighbours;
and the inside is extracted anew on a finer lattice, which keeps the mesh watertight, manifold and
free of folds, where theirs collapses, splits and flips edges.

References
----------
Lu et al., "Direct2.5: Diverse Text-to-3D Generation via Multi-view 2.5D Diffusion" (CVPR 2024);
Palfinger, "Continuous remeshing for inverse rendering" (2022); Nicolet et al., "Large Steps in
Inverse Rendering of Geometry" (SIGGRAPH Asia 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rectiflow_shape.geometry import BOX, Mesh, SignedDistance, extract
from rectiflow_shape.rasterise import Preconditioner, Surface
from rectiflow_shape.render import Camera

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

VIEWS = tuple(Camera(azimuth, 0.0, 60.0, 1.5) for azimuth in (0.0, 90.0, 180.0, 270.0))
"""Where Direct2.5 looks from."""

_MARGIN = 1.15  # of the ball that a camera sees whole
_ROUGH = 5  # depth of the lattice on which the object is found
_FACING = 0.9  # share of a map that has to look at its camera
_BEHIND = -0.1  # cosine from which a normal does; below, it is of what cannot be seen
_BETAS = (0.9, 0.999)
_STEEPEST = 5.0  # mean lengths that the gradient of a vertex is cut to, as the published is


@dataclass(frozen=True)
class FusionSettings:
    """How a mesh is fitted to normal maps.

    Parameters
    ----------
    steps : tuple of int
        Of each stage.
    depths : tuple of int
        Of the lattice, 2^depth cells a side, that the mesh of each stage is extracted on.
    depth : int
        The same of the result.
    size : int
        Pixels of a side that are compared; larger maps are reduced.
    rate : float
        The most that a vertex moves in a step, about, in cells of the stage's lattice.
    smoothness : float
        λ of :class:`~rectiflow_shape.rasterise.Preconditioner`.
    outline, bend : float
        Weights of coverage and of the angles between faces, beside that of the normals, 1.
    """

    steps: tuple[int, ...] = (80, 120)
    depths: tuple[int, ...] = (5, 6)
    depth: int = 7
    size: int = 128
    rate: float = 0.3
    smoothness: float = 1.0
    outline: float = 1.0
    bend: float = 0.1

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.depths) or not self.steps or min(self.steps) < 1:
            raise ValueError(
                f"steps and depths must be of the same stages, got {self.steps} and {self.depths}."
            )
        if self.size < 16 or min(self.rate, self.smoothness) <= 0:
            raise ValueError(
                f"size must be at least 16, rate and smoothness positive, got {self.size}, "
                f"{self.rate:g} and {self.smoothness:g}."
            )


@dataclass(frozen=True)
class Fusion:
    """A fused mesh.

    Attributes
    ----------
    mesh : Mesh
        In the units of the cameras' distances.
    hull : Mesh
        What it began from.
    errors : tuple of float
        Mean absolute difference of normals (of values 0 to 1) and coverage, before each step.
    """

    mesh: Mesh
    hull: Mesh
    errors: tuple[float, ...]


def visual_hull(
    masks: Float[Tensor, "k s s"], cameras: Sequence[Camera], *, depth: int = 6
) -> Mesh:
    """Return the surface of the largest body whose outlines lie within all masks.

    Parameters
    ----------
    masks : Tensor, shape (k, s, s)
        How much of each pixel is covered.
    cameras : sequence of Camera
        Which see the unit ball.
    depth : int
        Of the lattice.

    Raises
    ------
    ValueError
        If no point lies within all masks.
    """
    from scipy.ndimage import distance_transform_edt as distance

    size = masks.shape[-1]
    inside = (masks > 0.5).numpy()
    # Distances between middles of pixels; the outline is half a pixel from either.
    signed = np.stack([distance(m) - distance(~m) - np.sign(m - 0.5) / 2 for m in inside])
    fields = torch.from_numpy(signed.astype(np.float32))[:, None]

    def field(points: Tensor) -> Tensor:
        found = []
        for image, camera in zip(fields, cameras, strict=True):
            at = camera.project(points, size)[0] * (2 / size) - 1
            value = F.grid_sample(
                image[None], at[None, None], padding_mode="border", align_corners=False
            ).flatten()
            found.append(torch.where((at.abs() > 1).any(1), -value.abs() - 1, value) * 2 / size)
        return torch.stack(found).amin(0)

    try:
        return extract(field, depth=depth).mesh
    except ValueError as error:
        raise ValueError(
            "no point lies within the outlines of all views; expected pictures of one object that "
            "the cameras see whole. Check the order of the pictures, and azimuth, elevation, view "
            "and distance of the cameras."
        ) from error


def fuse_normals(
    normals: Float[Tensor, "k s s 3"],
    masks: Float[Tensor, "k s s"],
    cameras: Sequence[Camera] = VIEWS,
    settings: FusionSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Fusion:
    """Make a mesh of normal maps.

    Parameters
    ----------
    normals : Tensor, shape (k, s, s, 3)
        In the world, from -1 to 1.
    masks : Tensor, shape (k, s, s)
        How much of each pixel is covered, 0 to 1.
    cameras : sequence of Camera
        Where each looks from.
    settings : FusionSettings, optional
    progress : callable, optional
        ``progress(done, steps)``.

    Returns
    -------
    Fusion

    Raises
    ------
    ValueError
        If maps and cameras do not go together: another number, an empty map, normals that look
        away from their camera, outlines without a common inside.
    """
    settings, cameras = settings or FusionSettings(), list(cameras)
    if not len(normals) == len(masks) == len(cameras) or len(cameras) < 2:
        raise ValueError(
            f"each map needs its mask and its camera, and there must be two or more, got "
            f"{len(normals)} maps, {len(masks)} masks and {len(cameras)} cameras."
        )
    for k, (normal, mask, camera) in enumerate(zip(normals, masks > 0.5, cameras, strict=True)):
        check_map(normal, mask, camera, f"map {k}")
    unit, within = _placed(masks, cameras)
    size = min(settings.size, masks.shape[-1])
    wanted = _targets(normals.double(), masks.double(), size)
    mesh, total, errors = None, sum(settings.steps), list[float]()
    hull = visual_hull(masks, within, depth=settings.depth)
    for steps, depth in zip(settings.steps, settings.depths, strict=True):
        if mesh is None:
            mesh = visual_hull(masks, within, depth=depth)
        else:
            mesh = extract(_inside(mesh), depth=depth).mesh
        surface, rate = Surface(mesh), settings.rate * 2 * BOX / 2**depth
        smooth = Preconditioner(surface, settings.smoothness)
        x = torch.from_numpy(mesh.vertices)
        u, mean, square = smooth.apply(x), torch.zeros_like(x), 0.0
        for step in range(1, steps + 1):
            x.requires_grad_(True)
            drawn = torch.stack([surface.picture(x, camera, size) for camera in within])
            off = (drawn - wanted).abs()
            seen = off[..., :3].mean() + settings.outline * off[..., 3].mean()
            (slope,) = torch.autograd.grad(seen + settings.bend * surface.bend(x), x)
            # Adam with one scale for all vertices, which keeps directions.
            slope = smooth.solve(slope)
            length = slope.norm(dim=1, keepdim=True)
            most = _STEEPEST * length.mean()
            slope = slope * (most / length.clamp_min(most))
            mean = _BETAS[0] * mean + (1 - _BETAS[0]) * slope
            square = _BETAS[1] * square + (1 - _BETAS[1]) * float(slope.square().max())
            scale = math.sqrt(square / (1 - _BETAS[1] ** step)) or 1.0
            u = u - rate / scale / (1 - _BETAS[0] ** step) * mean
            x = smooth.solve(u)
            errors.append(float(seen.detach()))
            if progress is not None:
                progress(len(errors), total)
        mesh = Mesh(x.numpy(), mesh.faces)
    assert mesh is not None
    whole = extract(_inside(mesh), depth=settings.depth).mesh
    found, start = (Mesh(unit * each.vertices, each.faces) for each in (whole, hull))
    return Fusion(found, start, tuple(errors))


def _placed(masks: Float[Tensor, "k s s"], cameras: Sequence[Camera]) -> tuple[float, list[Camera]]:
    """Return the unit in which the object fills the lattice, and the cameras in it."""
    unit = max(map(_sees, cameras))
    within = [replace(camera, away=camera.distance / unit) for camera in cameras]
    rough = visual_hull(masks, within, depth=_ROUGH)
    # A small object in large pictures would else be coarse.
    span = np.abs(rough.vertices).max() / BOX + 2 ** (1 - _ROUGH)
    unit *= min(1.0, float(span) * _MARGIN)
    return unit, [replace(camera, away=camera.distance / unit) for camera in cameras]


def check_map(
    normal: Float[Tensor, "s s 3"], mask: Bool[Tensor, "s s"], camera: Camera, name: str
) -> None:
    """Refuse what is no map of normals that look at its camera.

    Raises
    ------
    ValueError
        If it has no object, or normals that are not of unit length or look away.
    """
    if not bool(mask.any()):
        raise ValueError(
            f"{name} has no object; expected normals on a transparent or black ground."
        )
    seen = normal[mask]
    length = seen.norm(dim=1)
    if not float(((length - 1).abs() < 0.3).double().mean()) > _FACING:
        raise ValueError(
            f"{name} has values of length {float(length.median()):.2f} in the middle; expected "
            "unit normals, stored as (n + 1) / 2. Is it a map of normals?"
        )
    toward = (seen * camera.rays(len(mask)).to(seen)[mask]).sum(1)
    share = float((toward > _BEHIND).double().mean())
    if share < _FACING:
        raise ValueError(
            f"{name}: only {share:.0%} of its normals look at its camera (azimuth "
            f"{camera.azimuth:g}, elevation {camera.elevation:g}); expected nearly all. Check the "
            "order of the pictures, their cameras, and in which axes normals are told."
        )


def _sees(camera: Camera) -> float:
    """Return the radius of the ball around the origin that a camera sees with its usual margin."""
    if not camera.view:
        return 1.0
    return camera.distance * math.sin(math.radians(camera.view) / 2) / _MARGIN


def _targets(normals: Tensor, masks: Tensor, size: int) -> Float[Tensor, "k s s 4"]:
    """Return what pictures of the mesh should be: mapped to 0 to 1 and reduced by their area."""
    normals = normals / normals.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    whole = torch.cat([(normals + 1) / 2 * masks[..., None], masks[..., None]], -1)
    return F.adaptive_avg_pool2d(whole.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)


def _inside(mesh: Mesh) -> Callable[[Tensor], Tensor]:
    distance = SignedDistance(mesh)
    return lambda points: -distance(points)
