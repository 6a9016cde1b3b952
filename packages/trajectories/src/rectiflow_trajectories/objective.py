"""What training minimises on a batch of trajectories: the straight flow, or the diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.flow import Flow
from rectiflow.sources import Normal
from rectiflow.storage.records import state_of
from torch import Tensor, nn

from rectiflow_trajectories.diffusion import Diffusion
from rectiflow_trajectories.networks.graph import Told, centred

if TYPE_CHECKING:
    from rectiflow_trajectories.networks import EGTN

GRADIENTS = ("full", "input", "regression")
"""How a learned reference is trained: by all that depends on it, which makes the way from it to the
data short; by what the network sees alone; or to be the data's mean, apart from the flow."""

TOLD = ("nodes", "edges", "linked", "real")


class TrajectoryObjective(nn.Module):
    """The flow-matching loss of trajectories around their reference.

    A batch has ``positions (b, n, s + t, d)``, padded, and what networks are told of its graphs; or
    it is of stored pairs, whose reference stays the teacher's.

    Parameters
    ----------
    network : EGTN
    noise : float
        Standard deviation around the reference.
    prior_gradient : str
        One of :data:`GRADIENTS`.

    References
    ----------
    Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024), of which this is the
    straight form; Liu et al., "Flow Straight and Fast" (ICLR 2023).
    """

    def __init__(self, network: EGTN, *, noise: float = 1.0, prior_gradient: str = "full") -> None:
        super().__init__()
        if prior_gradient not in GRADIENTS:
            raise ValueError(
                f"prior_gradient must be one of {', '.join(GRADIENTS)}, got {prior_gradient!r}."
            )
        self.network, self.prior_gradient = network, prior_gradient
        self.flow = Flow(source=Normal(scale=noise))

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the graphs, and how far the reference is from the data."""
        if "x1" in batch:
            told = state_of(batch, "cond")
            assert isinstance(told, dict)
            pair = batch["x1"], told, batch["x0"]
            return {"loss": self._loss(self.network, *pair, generator)}
        y1, told = parts_of(self.network, batch)
        real = told["real"]
        if "reference" not in told:
            noise: Any = self.flow.noise_for(y1, generator=generator)
            x0 = centred(noise, real)
            return {"loss": self._loss(self.network, y1, told, x0, generator)}
        free, fixed = told["reference"], told["reference"].detach()
        apart = y1[real].square().mean()
        if self.prior_gradient == "regression":
            told["reference"] = fixed
            y1 = y1 + free - fixed  # of equal value, without the slope

        def network(y: Tensor, t: Tensor, told: Told) -> Tensor:
            v: Tensor = self.network(y, t, told)
            # The target has the slope of -reference; this takes it away.
            return v + fixed - free if self.prior_gradient == "input" else v

        loss = self._loss(network, y1, told, None, generator)
        if self.prior_gradient == "regression":
            loss = loss + apart
        return {"loss": loss, "reference": apart.detach().sqrt()}

    def _loss(
        self, network: Any, y1: Tensor, told: Told, x0: Any, generator: torch.Generator
    ) -> Tensor:
        real = told["real"]
        return self.flow.loss(network, y1, told, x0=x0, mask=real, generator=generator).loss


class DiffusionObjective(nn.Module):
    """The authors' loss: the noise at a step drawn for each graph.

    Parameters
    ----------
    network : EGTN
    diffusion : Diffusion
    """

    def __init__(self, network: EGTN, diffusion: Diffusion) -> None:
        super().__init__()
        self.network, self.diffusion = network, diffusion

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the graphs."""
        data, told = parts_of(self.network, batch)
        real, device = told["real"], data.device
        step = torch.randint(self.diffusion.steps, (len(data),), generator=generator, device=device)
        noise = torch.randn(data.shape, generator=generator, device=device, dtype=data.dtype)
        noise = noise if self.network.given else centred(noise, real)
        y = self.diffusion.noised(data, step, noise)
        error = self.network(y, 1 - self.diffusion.told(step).to(data) / 1000, told) - noise
        weight = real[..., None, None].to(error).expand_as(error)
        each = (error.square() * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
        return {"loss": each.mean()}


def parts_of(network: EGTN, batch: Mapping[str, Tensor]) -> tuple[Tensor, Told]:
    """Return trajectories less their reference, or their mean, and what the network is told."""
    x, told = batch["positions"], {name: batch[name] for name in TOLD}
    if not network.given:
        return centred(x, told["real"]), told
    told["given"] = x[:, :, : network.given]
    told["reference"] = network.reference(told)
    return x[:, :, network.given :] - told["reference"], told
