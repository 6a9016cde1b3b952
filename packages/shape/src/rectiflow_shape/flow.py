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
from rectiflow.premetrics import Mask, MeanSquared, Premetric
from rectiflow.states import State, check_like
from rectiflow.time_density import LogitNormal, Shifted, TimeDensity, Uniform
from torch import Tensor

Condition = dict[str, Tensor]
"""``context (b, m, d)`` and, for mosaics, ``label (b,)``."""

BASE_TOKENS = 512
"""Of the stage from which TripoSG counts the shift of its times."""


@dataclass(frozen=True)
class GroupSquared(Premetric):
    """The mean squared error of each group of a grid's numbers, added up: place, size, values.

    A grid has three numbers for its place and a hundred or more for its values: in one mean its
    place would hardly count.
    """

    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the sum of the three means of tokens (b, n, c); a mask is not taken."""
        if mask is not None:
            raise ValueError("mosaics are of one number of grids, got a mask; expected none.")
        check_like(prediction, target, "the prediction")
        assert isinstance(prediction, Tensor) and isinstance(target, Tensor)
        parts = (
            (prediction.float() - target.float())
            .square()
            .split_with_sizes([3, 1, target.shape[-1] - 4], dim=-1)
        )
        return torch.stack([part.flatten(1).mean(1) for part in parts]).sum(0)


def mosaic_flow(*, density: TimeDensity | None = None, coupling: Coupling | None = None) -> Flow:
    """Return the flow of mosaics.

    Parameters
    ----------
    density : TimeDensity, optional
        Law of the time; uniform if absent, as in the paper.
    coupling : Coupling, optional
        Of noise and data; fresh noise, or that of stored pairs, if absent.
    """
    return Flow(
        density=density or Uniform(),
        coupling=coupling or Independent(),
        premetric=GroupSquared(),
    )


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
