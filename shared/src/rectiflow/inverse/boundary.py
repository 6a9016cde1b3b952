"""Optimal boundary conditions: one good start, searched once, for all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Start(NamedTuple):
    """A start and how it was found: its number among the candidates, and the mean of each."""

    start: Tensor
    index: int  # type: ignore[assignment]  # a tuple has a method of that name
    scores: Tensor


@torch.no_grad()
def select_start(
    sample: Callable[[Tensor], Tensor],
    candidates: Tensor,
    references: Tensor,
    metric: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Start:
    """Find the start whose results are best on a few pairs, to use for every input.

    How good a start is depends little on the input, so a deterministic sampler gains at no cost
    later: ``candidates x references`` runs now, none then.

    Parameters
    ----------
    sample : callable
        ``sample(starts (r, *event)) -> results``, under the inputs of the references, row by row.
    candidates : Tensor, shape (m, *event)
    references : Tensor, shape (r, *event)
        What the results should be.
    metric : callable, optional
        ``metric(results, references) -> (r,)``, less is better; mean squares if absent.

    References
    ----------
    Ma et al., "Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image
    Super-Resolution" (ICLR 2024).
    """
    if not len(candidates) or not len(references):
        raise ValueError(
            f"candidates and references must be some, got {len(candidates)} and {len(references)}."
        )
    judge = metric or (lambda a, b: (a - b).flatten(1).square().mean(1))
    count = len(references)
    scores = torch.stack(
        [judge(sample(z.expand(count, *z.shape)), references).double().mean() for z in candidates]
    )
    best = int(scores.argmin())
    return Start(candidates[best], best, scores)
