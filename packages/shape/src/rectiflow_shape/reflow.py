"""Rectification of shapes: pairs of noise and the tokens it flows to, with their condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from rectiflow.rectify import Pair

from rectiflow_shape.request import Asked, Options
from rectiflow_shape.sampling import Sampler

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline


def pair_sampler(
    pipe: ShapePipeline, asked: Sequence[Asked], options: Options
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i is asked for as entry ``i % len(asked)``. Guidance goes into the pair: the student
    needs none.

    Parameters
    ----------
    pipe : ShapePipeline
        The teacher.
    asked : sequence of Asked
        Conditions that take turns; their own numbers do not matter.
    options : Options
        As resolved: steps, solver, guidance, seed.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023).
    """
    sampler = Sampler(pipe, options)

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        cond = sampler.condition([asked[i % len(asked)] for i in indices])
        x0 = sampler.noise(indices)
        x1 = sampler.flow(x0, cond, indices=indices)
        told = [{name: value[row].cpu() for name, value in cond.items()} for row in range(len(x0))]
        rows = zip(indices, x0.cpu(), x1.cpu(), told, strict=True)
        return [Pair(index=i, x0=a, x1=b, cond=c) for i, a, b, c in rows]

    return sample
