"""What a training step minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from rectiflow.storage.records import state_of

if TYPE_CHECKING:
    from rectiflow.flow import Flow, LossOutput
    from rectiflow.states import State


class Objective(Protocol):
    """A module that turns a batch into a loss; it holds the trained network as ``network``.

    Implementations are ``nn.Module`` subclasses. All randomness comes from the generator, which
    lives on the batch's device. Training adds the entry ``"step"`` to each batch: the optimiser
    step, a scalar on the CPU, for whatever is annealed.
    """

    network: nn.Module

    def __call__(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return ``"loss"``, a scalar to differentiate, and further scalars to log."""
        ...


class FlowObjective(nn.Module):
    """The flow-matching loss of a :class:`~rectiflow.flow.Flow`.

    Parameters
    ----------
    network : nn.Module
        ``network(x, t)`` or ``network(x, t, cond)`` gives the flow's prediction.
    flow : Flow
        Path, prediction, source, coupling, time density and premetric.

    Notes
    -----
    A batch has ``x1``, and optionally ``x0`` (noise paired with it), ``cond``, ``mask`` (true where
    real) and ``moving`` (false where given). Dict states are flat: ``x1.trans``, ``x1.rot``.
    """

    def __init__(self, network: nn.Module, flow: Flow) -> None:
        super().__init__()
        self.network, self.flow = network, flow

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        x1 = state_of(batch, "x1")
        if x1 is None:
            raise KeyError(
                f"batch has no data 'x1', got {sorted(batch)}; expected 'x1' or parts 'x1.<name>'."
            )
        condition: Any = state_of(batch, "cond")
        flow = self.flow.at(int(batch["step"])) if "step" in batch else self.flow
        output = flow.loss(
            self.network,
            x1,
            condition,
            x0=state_of(batch, "x0"),
            mask=batch.get("mask"),
            moving=batch.get("moving"),
            generator=generator,
        )
        return {"loss": self.cost(output, x1)}

    def cost(self, output: LossOutput, x1: State) -> Tensor:
        """Return the loss that a batch of data comes to."""
        return output.loss
