"""What training of the flow minimises on a batch of flows, in the latents of a frozen codec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rectiflow.flow import Flow
from rectiflow.storage.records import state_of
from torch import Tensor, nn

from rectiflow_pde.data.rasters import still
from rectiflow_pde.data.windows import cloud_of
from rectiflow_pde.flow import Diffusion, latent_flow
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.simulator import FlowTransformer, beside
from rectiflow_pde.networks.transforms import Cloud


class SimulationObjective(nn.Module):
    """The loss of a rectified flow of latents, told numbers, a first frame, both or neither.

    A batch holds ``flow (b, 3, x, y, t)`` and ``numbers (b, 5)``; stored pairs of reflow hold
    ``x0``, ``x1`` and ``cond.*`` instead.

    Parameters
    ----------
    network : FlowTransformer
        What is trained.
    codec : PatchCodec
    flow : Flow, optional
        :func:`~rectiflow_pde.flow.latent_flow` if absent.
    drop_numbers, drop_number, drop_frame : float
        Share of samples that are told no numbers, share of single numbers that are not told
        besides, and share that get no first frame.
    draws : int
        Noises and times drawn for each encoded flow.

    References
    ----------
    Zhou et al., Text2PDE (arXiv 2410.01153), whose diffusion is :class:`DiffusionObjective`.
    """

    def __init__(
        self,
        network: FlowTransformer,
        codec: PatchCodec,
        flow: Flow | None = None,
        *,
        drop_numbers: float = 0.1,
        drop_number: float = 0.05,
        drop_frame: float = 0.3,
        draws: int = 1,
    ) -> None:
        super().__init__()
        shares = {"drop_numbers": drop_numbers, "drop_number": drop_number}
        for name, share in (shares | {"drop_frame": drop_frame}).items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}.")
        if draws < 1:
            raise ValueError(f"draws must be at least 1, got {draws}.")
        self.network: Any = network
        self.codec = codec
        self.flow = flow or latent_flow()
        self.drop_numbers, self.drop_number, self.drop_frame = drop_numbers, drop_number, drop_frame
        self.draws = draws

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch."""
        stored = state_of(batch, "x1")
        if stored is not None:
            cond: Any = state_of(batch, "cond")
            x0 = state_of(batch, "x0")
            out = self.flow.loss(self.network, stored, cond, x0=x0, generator=generator)
            return {"loss": out.loss}
        x1, cond = self.encode(batch, generator)
        return self.loss(x1, cond, generator)

    def loss(
        self, x1: Tensor, cond: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the loss of encoded flows."""
        return {"loss": self.flow.loss(self.network, x1, cond, generator=generator).loss}

    @torch.no_grad()
    def encode(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return latents and what the network is told, ``draws`` rows for each flow."""
        x1, first, numbers = (
            x.repeat_interleave(self.draws, 0)
            for x in (
                self.codec.encode(batch["flow"]),
                self.codec.encode(still(batch["flow"])),
                batch["numbers"],
            )
        )

        def chance(share: float, *shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=x1.device) < share

        rows = len(x1)
        hidden = chance(self.drop_numbers, rows, 1) | chance(self.drop_number, *numbers.shape)
        numbers = torch.where(hidden, torch.nan, numbers)
        given = ~chance(self.drop_frame, rows)
        return x1, {"numbers": numbers, "beside": beside(first, given)}


class SurrogateObjective(SimulationObjective):
    """The mean squared error of a deterministic guess by the same network.

    What a flow is compared with: the network sees no noise and says the latents at once.
    """

    def loss(
        self, x1: Tensor, cond: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the error of the guess."""
        guess = self.network(torch.zeros_like(x1), x1.new_zeros(len(x1)), cond)
        return {"loss": (guess - x1).square().mean()}


class DiffusionObjective(nn.Module):
    """The authors' loss: the noise at a random step of their diffusion, on latents with tokens.

    Stored pairs of rectified diffusion hold ``x0``, ``x1`` (scaled latents) and ``cond.context``.

    Parameters
    ----------
    network : LatentTransformer
        Trained, with the conditioner.
    codec : MeshAutoencoder
        Frozen; its posterior is sampled.
    conditioner : MeshFrameConditioner
    diffusion : Diffusion, optional
        The published one if absent.

    References
    ----------
    Zhou et al., Text2PDE (arXiv 2410.01153); Wang et al., "Rectified Diffusion" (ICLR 2025).
    """

    def __init__(
        self,
        network: nn.Module,
        codec: nn.Module,
        conditioner: nn.Module,
        diffusion: Diffusion | None = None,
    ) -> None:
        super().__init__()
        self.network, self.conditioner = network, conditioner
        self.codec: Any = codec.eval().requires_grad_(False)
        self.diffusion = diffusion or Diffusion()

    def train(self, mode: bool = True) -> DiffusionObjective:
        """Set the mode of network and conditioner; the codec stays as it is."""
        super().train(mode)
        self.codec.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean squared error of the noise."""
        if "x1" in batch:  # the same form and the same steps, with the noise of the pair
            noised, step, noise = self.diffusion.noised(batch["x1"], generator, batch["x0"])
            found = self.network(noised, step, batch["cond.context"])
            return {"loss": (found - noise).square().mean()}
        with torch.no_grad():
            posterior = self.codec.encode(batch["fields"], cloud_of(self.codec, batch))
            z = posterior.sample(generator) * self.codec.scale
        conditioner: Any = self.conditioner
        places = batch["points"].split(batch["sizes"].tolist())
        cloud = Cloud.join([conditioner.place(each) for each in places])
        context = conditioner(batch["fields"][:, 0], cloud.to(z.device))
        noised, step, noise = self.diffusion.noised(z, generator)
        return {"loss": (self.network(noised, step, context) - noise).square().mean()}
