"""What training minimises on a batch of chains."""

from __future__ import annotations

from typing import Any

import torch
from rectiflow.flow import Flow
from rectiflow.randomness import coin
from rectiflow.states import settle
from rectiflow.storage.records import state_of
from torch import Tensor, nn

from rectiflow_protein.flow import backbone_flow
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.networks import ReQFlowNetwork


class BackboneObjective(nn.Module):
    """The ReQFlow loss, with self-conditioning.

    A batch holds ``x1.trans (b, n, 3)``, ``x1.rot (b, n, 4)``, ``res_idx``, ``res_mask`` and
    ``diffuse_mask (b, n)``; reflow pairs add their noise, ``x0.trans`` and ``x0.rot``. Residues
    that are given or padding keep their data frames.

    Parameters
    ----------
    network : ReQFlowNetwork
        What is trained.
    flow : Flow, optional
        Corruption of the data; :func:`~rectiflow_protein.flow.backbone_flow` if absent.
    loss : BackboneLoss
        Loss terms.
    self_condition : float
        Share of batches that see a first prediction of the network as an input.
    """

    def __init__(
        self,
        network: ReQFlowNetwork,
        flow: Flow | None = None,
        loss: BackboneLoss | None = None,
        self_condition: float = 0.5,
    ) -> None:
        super().__init__()
        self.network = network
        self.flow = flow or backbone_flow()
        self.loss = loss or BackboneLoss()
        self.self_condition = self_condition

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch and its terms."""
        x1: Any = state_of(batch, "x1")
        res_mask, diffuse_mask = batch["res_mask"], batch["diffuse_mask"]
        (point,) = self.flow.points(
            x1,
            x0=state_of(batch, "x0"),
            mask=res_mask.bool(),
            moving=(res_mask * diffuse_mask).bool(),
            generator=generator,
        )
        xt: Any = point.x
        t = point.t

        given: dict[str, Any] = {
            "res_idx": batch["res_idx"],
            "diffuse_mask": diffuse_mask,
            "res_mask": None if settle(res_mask.bool()) is True else res_mask,
        }
        trans_sc = None
        if coin(self.self_condition, generator):
            with torch.no_grad():
                first = self.network(xt, t, **given)["trans"]
            moving = diffuse_mask.unsqueeze(-1)
            trans_sc = first * moving + x1["trans"] * (1 - moving)
        prediction = self.network(xt, t, **given, trans_sc=trans_sc)
        terms = self.loss(prediction, x1, xt, t, res_mask * diffuse_mask)
        return {name: value.mean() for name, value in terms.items()}
