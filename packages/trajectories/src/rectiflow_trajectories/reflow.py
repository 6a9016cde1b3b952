"""Rectification of trajectories: pairs of noise and what it flows to, around the teacher's mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.rectify import Pair

from rectiflow_trajectories.sampling import flowed, noise_of, told_of

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow_trajectories.pipeline import TrajectoryPipeline


def pair_sampler(
    pipe: TrajectoryPipeline, records: Sequence[dict[str, Tensor]], *, seed: int = 0, **way: Any
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i is of record ``i % len(records)``. A pair has the teacher's reference with it, so
    that what is learned keeps it.

    Parameters
    ----------
    pipe : TrajectoryPipeline
        The teacher.
    records : sequence of dict
        As in prepared folders.
    seed : int
        Of the noise.
    **way
        ``steps``, ``solver``, ``grid``.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023).
    """
    nodes = max(len(each["positions"]) for each in records)

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        keys = [(i % len(records), i // len(records)) for i in indices]
        told = told_of(pipe, [records[row] for row, _ in keys], nodes)
        x0 = noise_of(pipe, told, keys, seed)
        x1 = flowed(pipe, x0, told, keys, seed=seed, **way)
        rows = zip(indices, x0.cpu(), x1.cpu(), strict=True)
        conditions = [{n: v[row].cpu() for n, v in told.items()} for row in range(len(indices))]
        return [Pair(i, a, b, cond=cond) for (i, a, b), cond in zip(rows, conditions, strict=True)]

    return sample
