"""What flows on shapes: tokens from unit noise, under a class, a text or an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rectiflow.couplings import Coupling, Independent
from rectiflow.fields import VelocityField
from rectiflow.flow import Flow
from rectiflow.guidance import guided_velocity
from rectiflow.premetrics import DifferencePremetric, MeanSquared, Premetric
from rectiflow.time_density import LogitNormal, Shifted, TimeDensity, Uniform
from torch import Tensor

Condition = dict[str, Tensor]
"""``context (b, m, d)`` and, for mosaics, ``label (b,)``."""

BASE_TOKENS = 512
"""Of the stage from which TripoSG counts the shift of its times."""


@dataclass(frozen=True)
class GroupSquared(DifferencePremetric):
    """The mean squared error of each group of channels, added up.

    A grid has three numbers for its place and a hundred or more for its values: in one mean its
    place would hardly count.

    Parameters
    ----------
    values : int
        Channels of the last group, after three for the place and one for the size.
    """

    values: int

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the sum of the three means; a mask is not taken."""
        rows = error.unflatten(1, (-1, 4 + self.values)).square()
        return sum(part.flatten(1).mean(1) for part in rows.split([3, 1, self.values], dim=-1))


def mosaic_flow(
    resolution: int, *, density: TimeDensity | None = None, coupling: Coupling | None = None
) -> Flow:
    """Return the flow of mosaics whose grids have so many values along an edge.

    Parameters
    ----------
    resolution : int
    density : TimeDensity, optional
        Law of the time; uniform if absent, as in the paper.
    coupling : Coupling, optional
        Of noise and data; fresh noise, or that of stored pairs, if absent.
    """
    cost = GroupSquared(resolution**3)
    return Flow(density=density or Uniform(), coupling=coupling or Independent(), premetric=cost)


def latent_flow(*, tokens: int = BASE_TOKENS, premetric: Premetric | None = None) -> Flow:
    """Return the flow of TripoSG's latents.

    The noise level is logit-normal, moved by ``sqrt(tokens / 512)`` where there are more tokens
    than in the first stage.

    Parameters
    ----------
    tokens : int
        Of a training example.
    premetric : Premetric, optional
        Mean squared error if absent.
    """
    shift = max(1.0, (tokens / BASE_TOKENS) ** 0.5)
    law: TimeDensity = LogitNormal()
    law = law if shift == 1.0 else Shifted(law, shift)
    return Flow(density=law, premetric=premetric or MeanSquared())


def null_of(cond: Mapping[str, Tensor], classes: int) -> Condition:
    """Return the condition that says nothing: states of zeros, and the label after the last."""
    null = {name: torch.zeros_like(value) for name, value in cond.items()}
    if "label" in null:
        null["label"] = torch.full_like(null["label"], classes)
    return null


def dropped(
    cond: Mapping[str, Tensor], classes: int, share: float, generator: torch.Generator
) -> Condition:
    """Return conditions of which each part of each sample says nothing with probability ``share``.

    Parts are dropped one by one, so that a class, a text, both or nothing can be asked for.
    """
    null, found = null_of(cond, classes), {}
    for name, value in cond.items():
        draw = torch.rand(len(value), generator=generator, device=value.device) < share
        found[name] = torch.where(draw.view(-1, *(1,) * (value.ndim - 1)), null[name], value)
    return found


def guided_field(network: Any, cond: Condition, guidance: float, **how: Any) -> VelocityField:
    """Return the velocity in float32 under a condition, away from none.

    Parameters
    ----------
    network : nn.Module
        Called with state, time and condition.
    cond : dict
    guidance : float
        The w of ``v_0 + w (v_c - v_0)``; 1 is none.
    **how
        How it acts, as for :func:`rectiflow.guidance.guided_velocity`.
    """
    null = null_of(cond, getattr(network, "classes", 0))
    return guided_velocity(network, cond, null, guidance, **how)
