"""Rectification: pairs of noise and the slice it flows to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.rectify import Pair
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing

from rectiflow_imaging.data.prepare import PreparedImages

if TYPE_CHECKING:
    from rectiflow_imaging.pipeline import ImagePipeline

Sampler = Callable[[list[int]], list[Pair]]


def pair_sampler(
    pipe: ImagePipeline,
    *,
    seed: int,
    steps: int = 50,
    solver: Solver | None = None,
    grid: Spacing | None = None,
) -> Sampler:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to sample pairs."""

    def sample(indices: list[int]) -> list[Pair]:
        x0 = pipe.noise(indices, seed)
        x1 = pipe.flow(x0, steps=steps, solver=solver, grid=grid)
        return [Pair(*each) for each in zip(indices, x0.cpu(), x1.cpu(), strict=True)]

    return sample


def inverted(
    pipe: ImagePipeline,
    folder: str,
    *,
    steps: int = 50,
    solver: Solver | None = None,
    grid: Spacing | None = None,
) -> tuple[Sampler, int]:
    """Return what inverts the train split of prepared images to noise, and how many it has."""
    prepared = PreparedImages(folder)
    rows = prepared.some_rows("train").tolist()
    back = reverse(plan((grid or uniform)(steps), solver or Euler()))

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        x1 = torch.stack([prepared.records[rows[i]]["x1"] for i in indices])
        x0 = integrate(pipe.field, x1.to(pipe.device), back)
        return [Pair(*each) for each in zip(indices, x0.cpu(), x1, strict=True)]

    return sample, len(rows)
