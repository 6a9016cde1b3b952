"""What DRDM and the restorers minimise; a prior of images takes the core's FlowObjective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rectiflow.flow import Flow
from rectiflow.inverse import AroundEstimate
from torch import Tensor, nn

from rectiflow_imaging import drdm
from rectiflow_imaging.deformation import RandomField, warp
from rectiflow_imaging.networks.recovery import RecoveryNetwork
from rectiflow_imaging.networks.restoration import MeanFlowNetwork, ResidualNetwork


class RecoveryObjective(nn.Module):
    """A random deformation of each image, and the loss of what the network makes of it.

    A batch holds ``x1 (b, c, *space)`` in [-1, 1]; the network sees [0, 1] with its contrast and
    brightness a little off, as the authors have it.

    Parameters
    ----------
    network : RecoveryNetwork
    field : RandomField, optional
    jitter : float, default 0.1
        Deviation of contrast and brightness.
    """

    def __init__(
        self, network: RecoveryNetwork, field: RandomField | None = None, *, jitter: float = 0.1
    ) -> None:
        super().__init__()
        self.network, self.field, self.jitter = network, field or RandomField(), jitter

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch, and what it is made of."""
        x = (batch["x1"] + 1) / 2
        told: Any = {"generator": generator, "device": generator.device}
        one = (len(x), *(1,) * (x.ndim - 1))
        x = x * (1 + self.jitter * torch.randn(one, **told)) + self.jitter * torch.randn(
            one, **told
        )
        t = torch.randint(self.network.n_steps, (len(x),), **told)
        noise = self.field.noise(len(x), self.network.axes, generator=generator)
        field, label = self.field(noise, t, x.shape[-1])
        found = self.network(warp(x, field), t)
        moved = warp(found, label, padding="border")
        return {
            "loss": drdm.loss(found, label).mean(),
            "misfit": drdm.misfit(moved, label).mean().detach(),
            "alignment": drdm.alignment(moved, label).mean().detach(),
        }


class MeanFlowObjective(nn.Module):
    """PMRF in one stage: the estimate's squared error, and the flow from it, which is held.

    A batch holds ``x1 (b, c, s, s)`` in [-1, 1], which is degraded afresh each time.

    Parameters
    ----------
    network : MeanFlowNetwork
    """

    def __init__(self, network: MeanFlowNetwork) -> None:
        super().__init__()
        self.network, self.flow = network, Flow(coupling=AroundEstimate(network.sigma))

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sum, and the squared error."""
        x1 = batch["x1"]
        estimate = self.network.estimate(self.network.degraded(x1, generator))
        error = (estimate - x1).square().mean()
        flow = self.flow.loss(self.network, x1, x0=estimate.detach(), generator=generator)
        return {"loss": error + flow.loss, "error": error.detach()}


class ResidualObjective(nn.Module):
    """RDDM's loss on a batch that is degraded afresh each time.

    Parameters
    ----------
    network : ResidualNetwork
    """

    def __init__(self, network: ResidualNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss."""
        x1, model = batch["x1"], self.network.diffusion
        told: Any = {"generator": generator, "device": generator.device}
        k = torch.randint(model.steps, (len(x1),), **told)
        noise = torch.randn(x1.shape, **told)
        degraded = self.network.degraded(x1, generator)
        return {"loss": model.loss(self.network, x1, degraded, k, noise).mean()}
