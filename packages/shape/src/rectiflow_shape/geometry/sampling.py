"""Points on and around surfaces, and few of many that cover them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.geometry.mesh import Mesh

if TYPE_CHECKING:
    from jaxtyping import Float, Int

NEAR_SIGMAS = (0.005, 0.05)
"""Spread of samples near the surface of a normalised shape, half of them each; ours, TripoSG does
not state its own."""


def surface_points(
    mesh: Mesh, n: int, generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Draw points uniformly by area, with the normals of their faces.

    Returns
    -------
    points, normals : Tensor, shape (n, 3)
        float64, in the mesh's units; normals of unit length.

    Raises
    ------
    ValueError
        If the mesh has no area.
    """
    areas = torch.from_numpy(mesh.areas)
    if not float(areas.sum()) > 0:
        raise ValueError("the mesh has no area to draw points from; expected faces with an area.")
    ends = areas.cumsum(0)
    place = torch.rand(n, generator=generator, dtype=torch.float64) * ends[-1]
    faces = torch.searchsorted(ends, place, right=True).clamp(max=len(ends) - 1)
    u, v = torch.rand(2, n, 1, generator=generator, dtype=torch.float64)
    root = u.sqrt()
    a, b, c = torch.from_numpy(mesh.triangles)[faces].unbind(1)
    normals = torch.from_numpy(mesh.crosses)[faces]
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    return points, normals / normals.norm(dim=1, keepdim=True)


def near_surface(
    mesh: Mesh,
    n: int,
    generator: torch.Generator | None = None,
    sigmas: Sequence[float] = NEAR_SIGMAS,
) -> Float[Tensor, "n 3"]:
    """Draw points around the surface: on it by area, then moved by :func:`around`."""
    return around(surface_points(mesh, n, generator)[0], generator, sigmas)


def around(
    points: Float[Tensor, "n 3"],
    generator: torch.Generator | None = None,
    sigmas: Sequence[float] = NEAR_SIGMAS,
) -> Float[Tensor, "n 3"]:
    """Move points by normal noise; the spreads take turns."""
    n = len(points)
    spread = torch.tensor(sigmas, dtype=points.dtype).repeat(-(-n // len(sigmas)))[:n, None]
    return points + spread * torch.randn(n, 3, generator=generator, dtype=points.dtype)


def farthest_points(
    points: Float[Tensor, "b p 3"], n: int, start: int | torch.Generator = 0
) -> Int[Tensor, "b n"]:
    """Choose points of each cloud so that each is the farthest from those before it.

    Parameters
    ----------
    points : Tensor, shape (b, p, 3)
        On any device, which does the work.
    n : int
        How many, at most ``p``.
    start : int or Generator, default 0
        The index of the first, or what draws one for each cloud.

    Returns
    -------
    Tensor, shape (b, n)
        Indices in the order of choice; of equally far points the first is taken.

    References
    ----------
    Eldar et al., "The farthest point strategy for progressive image sampling" (1997). The same as
    ``fps`` of torch_cluster with ``random_start=False``.
    """
    batch, count, _ = points.shape
    if not 0 < n <= count:
        raise ValueError(f"n must be 1 to the number of points, got {n}; expected 1 to {count}.")
    if isinstance(start, torch.Generator):
        first = torch.randint(count, (batch,), generator=start, device=start.device)
        last = first.to(points.device)
    else:
        last = torch.full((batch,), start, device=points.device)
    chosen = torch.empty(n, batch, dtype=torch.long, device=points.device)
    x, y, z = points.unbind(-1)
    rows = torch.arange(batch, device=points.device)
    nearest = torch.full((batch, count), torch.inf, dtype=points.dtype, device=points.device)
    for k in range(n):
        chosen[k] = last
        dx, dy, dz = (each - each[rows, last, None] for each in (x, y, z))
        nearest = torch.minimum(nearest, dx * dx + dy * dy + dz * dz)
        last = nearest.argmax(1)
    return chosen.T.contiguous()
