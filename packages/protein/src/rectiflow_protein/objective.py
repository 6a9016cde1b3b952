"""What training minimises on a batch of chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from rectiflow.flow import Flow
from rectiflow.randomness import coin
from rectiflow.rectify.map_losses import FlowMapObjective, MapLoss, Semigroup, Spans
from rectiflow.states import State, settle
from rectiflow.storage.records import state_of
from rectiflow.time_density import Uniform
from torch import Tensor, nn

from rectiflow_protein.flow import START_TIME, backbone_flow, backbone_map_flow
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.networks import ReQFlowNetwork


class BackboneObjective(nn.Module):
    """The ReQFlow loss, with self-conditioning.

    A batch holds ``x1.trans (b, n, 3)``, ``x1.rot (b, n, 4)``, ``res_idx``, ``res_mask`` and
    ``diffuse_mask (b, n)``; reflow pairs add their noise, ``x0.trans`` and ``x0.rot``, and
    training adds ``step``, which annealed couplings count. Residues
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
        flow = self.flow.at(int(batch["step"])) if "step" in batch else self.flow
        (point,) = flow.points(
            x1,
            x0=state_of(batch, "x0"),
            mask=res_mask.bool(),
            moving=(res_mask * diffuse_mask).bool(),
            generator=generator,
        )
        xt: Any = point.x
        t = point.t

        given = _given(batch)
        trans_sc = None
        if coin(self.self_condition, generator):
            with torch.no_grad():
                first = self.network(xt, t, **given)["trans"]
            moving = diffuse_mask.unsqueeze(-1)
            trans_sc = first * moving + x1["trans"] * (1 - moving)
        prediction = self.network(xt, t, **given, trans_sc=trans_sc)
        terms = self.loss(prediction, x1, xt, t, res_mask * diffuse_mask)
        return {name: value.mean() for name, value in terms.items()}


class BackboneMapObjective(FlowMapObjective):
    """Trains a network of maps of chains, on batches as of :class:`BackboneObjective`.

    It is not conditioned on itself: a sampler of few jumps has no earlier prediction.

    Parameters
    ----------
    network : ReQFlowNetwork
        From :func:`rectiflow.rectify.to_map`.
    flow : Flow, optional
        :func:`~rectiflow_protein.flow.backbone_map_flow` if absent.
    loss : MapLoss, optional
        :class:`~rectiflow.rectify.Semigroup`, which needs no derivative, if absent.
    spans : Spans, optional
        From the time where sampling starts, by default, and from 0.99 at the latest.
    teacher : ReQFlowNetwork, optional
        Of whose velocities the maps are made.
    """

    def __init__(
        self,
        network: ReQFlowNetwork,
        flow: Flow | None = None,
        loss: MapLoss | None = None,
        spans: Spans | None = None,
        teacher: ReQFlowNetwork | None = None,
    ) -> None:
        whole = Spans(Uniform(START_TIME, 1.0), latest=0.99)
        super().__init__(
            network, flow or backbone_map_flow(), loss or Semigroup(), spans or whole, teacher
        )

    def bound(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Callable[..., State]:
        """Return a network, told the chain."""
        given = _given(batch)
        return lambda x, t, **until: network(x, t, **given, **until)

    def masks(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return which residues are real, and which move."""
        res_mask = batch["res_mask"]
        return {"mask": res_mask.bool(), "moving": (res_mask * batch["diffuse_mask"]).bool()}


def _given(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the network is told of chains."""
    res_mask = batch["res_mask"]
    return {
        "res_idx": batch["res_idx"],
        "diffuse_mask": batch["diffuse_mask"],
        "res_mask": None if settle(res_mask.bool()) is True else res_mask,
    }
