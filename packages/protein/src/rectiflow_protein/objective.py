"""What training minimises on a batch of chains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rectiflow_protein.flow import BackboneFlow
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.networks import ReQFlowNetwork


class BackboneObjective(nn.Module):
    """The ReQFlow loss, with self-conditioning.

    A batch holds ``trans_1 (b, n, 3)``, ``quat_1 (b, n, 4)``, ``res_idx``, ``res_mask`` and
    ``diffuse_mask (b, n)``; reflow pairs add their noise, ``trans_0`` and ``quat_0``.

    Parameters
    ----------
    network : ReQFlowNetwork
        What is trained.
    flow : BackboneFlow
        Corruption of the data.
    loss : BackboneLoss
        Loss terms.
    self_condition : float
        Share of batches that see a first prediction of the network as an input.
    """

    def __init__(
        self,
        network: ReQFlowNetwork,
        flow: BackboneFlow | None = None,
        loss: BackboneLoss | None = None,
        self_condition: float = 0.5,
    ) -> None:
        super().__init__()
        self.network = network
        self.flow = flow or BackboneFlow()
        self.loss = loss or BackboneLoss()
        self.self_condition = self_condition

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch and its terms."""
        x1 = {"trans": batch["trans_1"], "rot": batch["quat_1"]}
        res_mask, diffuse_mask = batch["res_mask"], batch["diffuse_mask"]
        if "trans_0" in batch:
            x0 = {"trans": batch["trans_0"], "rot": batch["quat_0"]}
        else:
            x0 = self.flow.noise(x1, res_mask=res_mask, generator=generator)
        device = x1["trans"].device
        t = self.flow.density.sample(len(res_mask), generator=generator, device=device)
        t = t.to(x1["trans"].dtype)
        xt = self.flow.corrupt(x1, x0, t, res_mask=res_mask, diffuse_mask=diffuse_mask)

        given: dict[str, Any] = {
            "res_idx": batch["res_idx"],
            "diffuse_mask": diffuse_mask,
            "res_mask": None if bool(res_mask.all()) else res_mask,
        }
        trans_sc = None
        draw = torch.rand((), generator=generator, device=device)
        if bool(draw < self.self_condition):
            with torch.no_grad():
                first = self.network(xt, t, **given)["trans"]
            moving = diffuse_mask.unsqueeze(-1)
            trans_sc = first * moving + x1["trans"] * (1 - moving)
        prediction = self.network(xt, t, **given, trans_sc=trans_sc)
        terms = self.loss(prediction, x1, xt, t, res_mask * diffuse_mask)
        return {name: value.mean() for name, value in terms.items()}
