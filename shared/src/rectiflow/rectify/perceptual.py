"""Distances between what latents sound or look like, and losses that use them along a path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectiflow.premetrics import Mask, MeanSquared, Premetric
from rectiflow.states import State
from rectiflow.training.objective import FlowObjective

if TYPE_CHECKING:
    from rectiflow.flow import Flow, LossOutput


@dataclass(frozen=True)
class Decoded(Premetric):
    """A cost of decoded latents, or of the features that a frozen network finds in them.

    Parameters
    ----------
    decode : callable
        Of latents ``(b, *event)``; gradients flow through it.
    cost : Premetric, default mean squared error
        Of what it returns.
    """

    decode: Callable[[Tensor], Tensor]
    cost: Premetric = field(default_factory=MeanSquared)

    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the cost of each sample; nothing is masked in what is decoded."""
        if isinstance(prediction, dict) or isinstance(target, dict) or mask is not None:
            raise ValueError("decoded costs are of one whole tensor; expected no parts, no mask")
        with torch.no_grad():
            wanted = self.decode(target)
        return self.cost(self.decode(prediction), wanted)


class PerceptualObjective(FlowObjective):
    r"""RF++'s loss: a robust velocity error, and a perceptual one of the data it means.

    .. math:: L = t\, D(v, x_1 - x_0) + P(\hat x_1, x_1)
       \quad\text{or}\quad t\, D + P / (1 - t)

    with the flow's premetric as D: pseudo-Huber and LPIPS in the paper.

    Parameters
    ----------
    network, flow
        As for :class:`~rectiflow.training.FlowObjective`.
    perceptual : Premetric
        P, such as :class:`Decoded`.
    divided : bool, default False
        The second form, which the paper found best.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.1.
    """

    def __init__(
        self, network: nn.Module, flow: Flow, perceptual: Premetric, *, divided: bool = False
    ) -> None:
        super().__init__(network, flow)
        self.perceptual, self.divided = perceptual, divided

    def cost(self, output: LossOutput, x1: State) -> Tensor:
        """Return the loss of a batch."""
        t, path = output.t, self.flow.path
        v = self.flow.prediction.velocity(output.prediction, output.x_t, t, path)
        made: Any = path
        further = self.perceptual(made.data(v, output.x_t, t), x1)
        if self.divided:
            further = further / (1 - t).clamp_min(1e-3)
        return (t * output.per_sample + further).mean()
