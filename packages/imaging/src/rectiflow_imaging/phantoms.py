"""Bodies that are made up: the Shepp-Logan family, ellipsoids and vessels, with their labels.

A phantom is a volume ``(z, y, x)`` in ``[0, 1]`` and a label for each voxel, 0 outside. Edges are
one voxel wide. All lengths are shares of half the side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Phantom:
    """A made-up body.

    Attributes
    ----------
    values : Tensor, shape (z, y, x)
        float32 in [0, 1].
    labels : Tensor, shape (z, y, x)
        uint8; which structure, 0 outside of all.
    """

    values: Tensor
    labels: Tensor


Draw = Callable[[tuple[int, int, int], torch.Generator], Phantom]

# Value, half axes, centre (x, y, z each), rotation about z in degrees: Shepp and Logan's head in
# space with the contrast of Toft; the added values of the innermost are what is seen.
_HEAD = (
    (1.0, (0.69, 0.92, 0.81), (0.0, 0.0, 0.0), 0),
    (-0.8, (0.6624, 0.874, 0.78), (0.0, -0.0184, 0.0), 0),
    (-0.2, (0.11, 0.31, 0.22), (0.22, 0.0, 0.0), -18),
    (-0.2, (0.16, 0.41, 0.28), (-0.22, 0.0, 0.0), 18),
    (0.1, (0.21, 0.25, 0.41), (0.0, 0.35, -0.15), 0),
    (0.1, (0.046, 0.046, 0.05), (0.0, 0.1, 0.25), 0),
    (0.1, (0.046, 0.046, 0.05), (0.0, -0.1, 0.25), 0),
    (0.1, (0.046, 0.023, 0.05), (-0.08, -0.605, 0.0), 0),
    (0.1, (0.023, 0.023, 0.02), (0.0, -0.606, 0.0), 0),
    (0.1, (0.023, 0.046, 0.02), (0.06, -0.605, 0.0), 0),
)


def shepp_logan(
    shape: tuple[int, int, int], generator: torch.Generator, *, vary: float = 0.12
) -> Phantom:
    """Draw a head of Shepp and Logan whose parts differ a little in place, size and value.

    With ``vary = 0`` it is the phantom itself.
    """
    grid, voxel = _grid(shape)
    values, labels = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
    turn = vary * _uniform(1, generator).item()
    for i, (value, axes, centre, degrees) in enumerate(_HEAD):
        size = torch.tensor(axes) * (1 + vary * _uniform(3 if i > 1 else 1, generator))
        place = torch.tensor(centre) + (0.5 * vary * _uniform(3, generator) if i > 1 else 0)
        strength = value * (1 + (2 * vary * _uniform(1, generator).item() if i > 1 else 0))
        angle = (
            math.radians(degrees) + turn + (vary * _uniform(1, generator).item() if i > 1 else 0)
        )
        share = _ellipsoid(grid, voxel, size, _turned(place, turn), angle)
        values += strength * share
        labels[share > 0.5] = i + 1
    return Phantom(values.clamp(0, 1), labels)


def ellipsoids(shape: tuple[int, int, int], generator: torch.Generator) -> Phantom:
    """Draw a body with organs: a large ellipsoid, and four to nine smaller ones within."""
    grid, voxel = _grid(shape)
    size = torch.tensor([0.78, 0.62, 0.9]) * (1 + 0.15 * _uniform(3, generator))
    turn = 0.3 * _uniform(1, generator).item()
    body = _ellipsoid(grid, voxel, size, torch.zeros(3), turn)
    values = (0.25 + 0.1 * _uniform(1, generator).item()) * body
    labels = (body > 0.5).to(torch.uint8)
    for i in range(int(torch.randint(4, 10, (1,), generator=generator))):
        axes = size * (0.08 + 0.27 * torch.rand(3, generator=generator))
        way = torch.randn(3, generator=generator)
        far = torch.rand(1, generator=generator) ** (1 / 3) * (1 - axes / size).amin()
        place = _turned(way / way.norm() * far * size, turn)
        share = _ellipsoid(grid, voxel, axes, place, math.pi * _uniform(1, generator).item())
        strength = 0.1 + 0.9 * torch.rand(1, generator=generator).item()
        values = values * (1 - share) + strength * share
        labels[share > 0.5] = i + 2
    return Phantom(values.clamp(0, 1), labels)


def vessels(
    shape: tuple[int, int, int], generator: torch.Generator, *, generations: int = 6
) -> Phantom:
    """Draw a tree of vessels that bifurcate, thinner by Murray's law, in faint tissue."""
    grid, voxel = _grid(shape)
    share, labels = torch.zeros(shape), torch.zeros(shape, dtype=torch.uint8)
    root = torch.tensor([0.15 * _uniform(1, generator).item(), -0.95, 0.0])
    ends = [(root, torch.tensor([0.0, 1.0, 0.0]), 0.09)]
    for level in range(generations):
        grown = []
        for start, way, radius in ends:
            length = 0.55 * 0.8**level * (1 + 0.25 * _uniform(1, generator).item())
            stop = start + length * way
            tube = _tube(grid, voxel, start, stop, radius)
            share = torch.maximum(share, tube)
            labels[tube > 0.5] = level + 1
            side = torch.linalg.cross(way, torch.randn(3, generator=generator))
            side = side / side.norm()
            tilt = 0.45 + 0.2 * _uniform(1, generator).item()
            for sign in (-1, 1):
                next_way = way * math.cos(tilt) + sign * side * math.sin(tilt)
                grown.append((stop, next_way, radius * 2 ** (-1 / 3)))
        ends = grown
    body = _ellipsoid(grid, voxel, torch.tensor([0.95, 0.95, 0.95]), torch.zeros(3), 0.0)
    return Phantom((0.15 * body * (1 - share) + 0.9 * share).clamp(0, 1), labels)


FAMILIES: dict[str, Draw] = {
    "shepp-logan": shepp_logan,
    "ellipsoids": ellipsoids,
    "vessels": vessels,
}
"""What draws a phantom, by name."""


def _grid(shape: tuple[int, int, int]) -> tuple[Tensor, float]:
    """Return x, y and z of all voxels, and the side of a voxel of a slice.

    A single slice lies in the middle.
    """
    deep, high, wide = shape
    if high != wide or min(shape) < 1:
        raise ValueError(f"slices must be squares, got {shape} (slices, rows, columns).")
    line = (2 * torch.arange(wide) + 1) / wide - 1
    depth = (2 * torch.arange(deep) + 1) / deep - 1
    z, y, x = torch.meshgrid(depth, line, line, indexing="ij")
    return torch.stack([x, -y, z]), 2 / wide  # rows run down


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, generator=generator) - 1


def _turned(place: Tensor, angle: float) -> Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * place[0] - s * place[1], s * place[0] + c * place[1], place[2]])


def _ellipsoid(grid: Tensor, voxel: float, axes: Tensor, place: Tensor, angle: float) -> Tensor:
    """Return the share of each voxel inside, to first order."""
    off = grid - place[:, None, None, None]
    c, s = math.cos(angle), math.sin(angle)
    x, y = c * off[0] + s * off[1], c * off[1] - s * off[0]
    sides = axes.expand(3)
    scaled = torch.stack([x, y, off[2]]) / sides[:, None, None, None]
    radius = scaled.square().sum(0).sqrt().clamp_min(1e-6)
    # Distance to the surface: the level over the length of its gradient.
    slope = (scaled / sides[:, None, None, None]).square().sum(0).sqrt() / radius
    return ((1 - radius) / slope.clamp_min(1e-6) / voxel + 0.5).clamp(0, 1)


def _tube(grid: Tensor, voxel: float, start: Tensor, stop: Tensor, radius: float) -> Tensor:
    way = stop - start
    off = grid - start[:, None, None, None]
    along = ((off * way[:, None, None, None]).sum(0) / way.square().sum()).clamp(0, 1)
    distance = (off - along * way[:, None, None, None]).square().sum(0).sqrt()
    return ((radius - distance) / voxel + 0.5).clamp(0, 1)
