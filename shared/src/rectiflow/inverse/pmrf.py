"""Posterior-mean rectified flow: from the best guess to a sample, along straight lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.couplings import Coupling
from rectiflow.fields import VelocityField
from rectiflow.integrate import integrate
from rectiflow.plans import Plan
from rectiflow.sources import Source
from rectiflow.states import State, map_state


@dataclass(frozen=True)
class AroundEstimate(Coupling):
    """Noise is the estimate that is stored with the data, and a little normal noise.

    Training is that of any :class:`~rectiflow.flow.Flow`; ``x0`` of an example is the posterior
    mean ``f(y)`` that another network predicts.

    Parameters
    ----------
    sigma : float, default 0.1
        Of the noise, which makes the flow possible where estimates lie on a thinner set than data.
    """

    sigma: float = 0.1

    def stored(self, x0: State, source: Source, generator: torch.Generator | None) -> State:
        """Return the estimate with fresh noise."""

        def blurred(a: Tensor) -> Tensor:
            fresh: Any = source.sample_like(a, generator=generator)
            return a + self.sigma * fresh

        return map_state(blurred, x0)


def restore(
    field: VelocityField,
    estimate: Tensor,
    plan: Plan,
    *,
    sigma: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Carry a posterior mean to a sample that looks like data.

    The squared error is the smallest of any estimator whose results are distributed as the data,
    for exact networks and ``sigma`` to 0: half of a posterior sample's at best.

    Parameters
    ----------
    field : VelocityField
        Trained with :class:`AroundEstimate`.
    estimate : Tensor, shape (b, *event)
        ``f(y)``, such as a separator's mask estimate.
    plan : Plan
        From 0 to 1; the authors take Euler's method in 25 steps.
    sigma : float, default 0.1
        That of training.
    generator : torch.Generator, optional

    References
    ----------
    Ohayon et al., "Posterior-Mean Rectified Flow: Towards Minimum MSE Photo-Realistic Image
    Restoration" (ICLR 2025).
    """
    noise = torch.randn(
        estimate.shape, generator=generator, dtype=estimate.dtype, device=estimate.device
    )
    return integrate(field, estimate + sigma * noise, plan)
