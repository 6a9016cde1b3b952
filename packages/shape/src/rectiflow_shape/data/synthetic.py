"""Made-up shapes with captions, for trials and tests where no meshes are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rectiflow.rectify import drawn_pairs
from rectiflow.storage.table import write_rows
from torch import Tensor

from rectiflow_shape.data.lists import TABLE, Entry
from rectiflow_shape.data.mosaics import Outline, fit_all
from rectiflow_shape.data.prepare import Samples, prepare
from rectiflow_shape.mosaic.fit import FitSettings

_SAMPLES = 4096


def sphere(radius: float, generator: torch.Generator) -> Outline:
    """Return points of a sphere, their normals and its signed distance."""
    normals = torch.nn.functional.normalize(torch.randn(_SAMPLES, 3, generator=generator), dim=-1)
    return radius * normals, normals, lambda x: x.norm(dim=-1) - radius


def box(half: Tensor, generator: torch.Generator) -> Outline:
    """Return the same of a box by its half extents (3,)."""
    areas = torch.stack([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    axis = torch.multinomial(areas, _SAMPLES, replacement=True, generator=generator)
    side = torch.randint(2, (_SAMPLES,), generator=generator) * 2.0 - 1
    points = (torch.rand(_SAMPLES, 3, generator=generator) * 2 - 1) * half
    rows = torch.arange(_SAMPLES)
    points[rows, axis] = side * half[axis]
    normals = torch.zeros(_SAMPLES, 3)
    normals[rows, axis] = side

    def distance(x: Tensor) -> Tensor:
        beyond = x.abs() - half
        return beyond.clamp_min(0).norm(dim=-1) + beyond.amax(-1).clamp_max(0)

    return points, normals, distance


def torus(ring: float, tube: float, generator: torch.Generator) -> Outline:
    """Return the same of a torus around the y axis."""
    u, v = torch.rand(2, _SAMPLES, generator=generator) * 2 * torch.pi
    out = torch.stack([u.cos(), torch.zeros_like(u), u.sin()], dim=-1)
    normals = v.cos()[:, None] * out + v.sin()[:, None] * torch.tensor([0.0, 1.0, 0.0])

    def distance(x: Tensor) -> Tensor:
        flat = torch.stack([x[:, 0], x[:, 2]], dim=-1).norm(dim=-1) - ring
        return torch.stack([flat, x[:, 1]], dim=-1).norm(dim=-1) - tube

    return ring * out + tube * normals, normals, distance


def _draw(kind: str, generator: torch.Generator) -> Outline:
    size = 0.5 + 0.4 * torch.rand(3, generator=generator)
    if kind == "ball":
        return sphere(float(size[0]), generator)
    if kind == "block":
        return box(size, generator)
    return torus(float(0.6 * size[0]), float(0.25 * size[1]), generator)


KINDS = ("ball", "block", "ring")
"""Classes of made-up shapes."""


def synthetic_outline(entry: Entry, generator: torch.Generator) -> Outline:
    """Draw the shape of an entry."""
    return _draw(entry.category, generator)


def synthetic_mosaics(
    out: Path | str, *, num: int, grids: int = 16, resolution: int = 5, seed: int = 0
) -> Path:
    """Make a folder as fitting does, of made-up shapes.

    Parameters
    ----------
    out : Path or str
        The folder.
    num : int
        Shapes of the train split; half as many, at least 2, are held out for validation.
    grids, resolution : int
        Of each mosaic.
    seed : int
        With the name of a shape, fixes it.
    """
    entries = [
        Entry("made up", -1, f"{split}_{i:03d}", kind, f"a {kind} of number {i}", split)
        for split, count in (("train", num), ("valid", max(2, num // 2)))
        for i in range(count)
        for kind in (KINDS[i % len(KINDS)],)
    ]
    settings = FitSettings(grids, resolution, steps=0, pool=256, batch=64)
    fit_all(entries, synthetic_outline, Path(out), settings, seed=seed)
    return Path(out)


def synthetic_shapes(out: Path | str, *, num: int, views: int = 0, seed: int = 0) -> Path:
    """Make a folder as :func:`~rectiflow_shape.data.prepare` does, of made-up meshes.

    Parameters
    ----------
    out : Path or str
        The folder; the meshes themselves are left beside it in ``<name>_meshes``.
    num : int
        Shapes of the train split; half as many, at least 2, are held out for validation.
    views : int
        Pictures of each.
    seed : int
        Of what is sampled.
    """
    import trimesh

    out = Path(out)
    meshes = out.with_name(f"{out.name}_meshes")
    rows: list[Any] = []
    meshes.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", num), ("valid", max(2, num // 2))):
        for i in range(count):
            name, kind = f"{split}_{i:03d}", KINDS[i % 2]
            made = trimesh.creation.box() if i % 2 else trimesh.creation.icosphere(2)
            made.apply_scale((1, 0.95 ** (1 + len(rows)), 1)).export(meshes / f"{name}.ply")
            rows.append({"file": f"{name}.ply", "class": kind, "caption": f"a {kind}"})
            rows[-1]["split"] = split
    write_rows(meshes / TABLE, ("file", "class", "caption", "split"), rows)
    samples = Samples(surface=512, near=256, volume=256, views=views, pixels=64)
    prepare(meshes, out, samples=samples, seed=seed)
    return out


def synthetic_pairs(
    out: Path | str,
    *,
    num: int,
    grids: int = 16,
    channels: int = 68,
    width: int = 384,
    seed: int = 0,
) -> Path:
    """Make pairs that mean nothing; ``out``, ``num``, ``seed`` as for :func:`drawn_pairs`.

    Parameters
    ----------
    grids, channels : int
        Of the mosaics, and of the token of each grid.
    width : int
        Of the text's states, of which there is one.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x0, x1 = torch.randn(2, grids, channels, generator=generator)
        context = torch.randn(1, width, generator=generator)
        return x0, x1, {"label": torch.tensor(0), "context": context}

    return drawn_pairs(draw, out, num=num, seed=seed)
