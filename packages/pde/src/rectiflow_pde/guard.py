"""What a checkpoint was trained on, and whether a request lies within."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.metrics.mesh_fields import divergence
from rectiflow_pde.request import obstacle_of
from rectiflow_pde.scaling import NUMBERS, Scaling

if TYPE_CHECKING:
    from jaxtyping import Float

_SLACK = 0.06
"""Of the trained range, on either side: the ends of what 32 flows are drawn from lie about 0.03
beyond the outermost of them."""

_WORDS = {
    "reynolds": "Reynolds number",
    "radius": "radius (m)",
    "centre_x": "position x (m)",
    "centre_y": "position y (m)",
    "u_mean": "mean inflow (m/s)",
}


_LOOKS = ((16, 4), (64, None))
"""How a frame is looked at: leading channels of a place, and how many of the places that are
furthest from the training count. The first sees an odd inflow, the second noise everywhere."""

_USUAL, _RARE = 0.9, 0.99
"""Shares of training frames: below a usual distance, and below the limit."""

_LEAKS = 0.25
"""Divergence over gradient of a first frame. Solved flows have up to 0.16 on meshes of 28 edges
around the cylinder and 0.22 on those of 16; flows that belong to another mesh 0.29 and more."""

_NEAR = 0.02
"""Metres by which the ends of a channel may differ."""

_ROUND = 0.05
"""Share of its radius by which nodes of a round obstacle may lie off the circle."""


class Guard(Pretrained, nn.Module):
    """First frames of the training in latents, and how far they are from each other.

    Frames are compared place by place, each with the nearest of the training at that place: so
    flows that are put together of known parts are known, whatever the cylinder and the phase.

    Parameters
    ----------
    count, places, channels : int
        How many frames are kept, and of how many numbers each.
    """

    frames: Float[Tensor, "m p c"]
    usual: Float[Tensor, "k p"]
    limit: Float[Tensor, " k"]

    def __init__(self, count: int, places: int, channels: int) -> None:
        super().__init__()
        kept = torch.zeros(count, places, channels, dtype=torch.float16)
        self.register_buffer("frames", kept)
        self.register_buffer("usual", torch.ones(len(_LOOKS), places))
        self.register_buffer("limit", torch.full((len(_LOOKS),), torch.inf))

    @classmethod
    def of(cls, latents: Float[Tensor, "m c *g"], owner: Sequence[int] | None = None) -> Guard:
        """Keep the latents of still first frames, and allow what all but few of them have.

        Parameters
        ----------
        latents : Tensor, shape (m, c, x, y, t)
        owner : sequence of int, optional
            The flow of each, which is not compared with its own frames; all differ if absent.
        """
        rows = features(latents)
        made = cls(*rows.shape).to(rows.device)
        made.frames.copy_(rows)
        flows = torch.arange(len(rows)) if owner is None else torch.as_tensor(owner)
        if len(flows.unique()) > 1:
            own = (flows[:, None] == flows).to(rows.device)
            for k, (channels, worst) in enumerate(_LOOKS):
                apart = made._nearest(rows, channels, own)
                made.usual[k] = apart.quantile(_USUAL, 0).clamp_min(1e-3)
                made.limit[k] = 1.1 * _worst(apart / made.usual[k], worst).quantile(_RARE)
        return made

    def _nearest(
        self, rows: Float[Tensor, "n p c"], channels: int, own: Tensor | None = None
    ) -> Float[Tensor, "n p"]:
        """Return how far each place of frames is from the nearest there of the training."""
        a, b = (x[..., :channels].float().transpose(0, 1) for x in (rows, self.frames))
        apart = torch.cdist(a, b)
        return (apart if own is None else apart.masked_fill(own, torch.inf)).amin(2).T

    def distance(self, latent: Float[Tensor, "1 c *g"]) -> float:
        """Return how far a first frame is from the training, 1 at the limit."""
        rows = features(latent).to(self.limit)
        far = [
            _worst(self._nearest(rows, channels) / usual, worst) / limit
            for (channels, worst), usual, limit in zip(_LOOKS, self.usual, self.limit, strict=True)
        ]
        return float(torch.cat(far).max())

    def judge(
        self, numbers: Mapping[str, float], scaling: Scaling, latent: Tensor | None = None
    ) -> list[str]:
        """Return a line for everything that lies outside of the training."""
        found = outside(numbers, scaling)
        if latent is not None and (far := self.distance(latent)) > 1:
            found.append(
                f"the first frame is unlike those of the training: {far:.2f} times as far from "
                "them as all but few of them are from each other"
            )
        return found


def outside(numbers: Mapping[str, float], scaling: Scaling) -> list[str]:
    """Return a line for each number outside of the trained range."""
    found = []
    for name, low, high in zip(NUMBERS, scaling.low, scaling.high, strict=True):
        value, slack = numbers.get(name), _SLACK * (high - low)
        if value is not None and not low - slack <= value <= high + slack:
            found.append(
                f"{_WORDS[name]} {value:.4g} is outside of the trained range, {low:.4g} to "
                f"{high:.4g}: the result may be wrong"
            )
    return found


def strange(
    mesh: Mesh, scaling: Scaling, first_frame: Float[np.ndarray, "n 3"] | None = None
) -> list[str]:
    """Return a line for what no flow of the training has: another channel, obstacle, or a leak."""
    found = []
    low, high = mesh.points.min(0), mesh.points.max(0)
    wanted = np.array([scaling.lengths[0], scaling.height])
    if (np.abs(np.stack([low - scaling.origin, high - scaling.origin - wanted])) > _NEAR).any():
        found.append(
            f"the mesh spans {low[0]:.3g} to {high[0]:.3g} and {low[1]:.3g} to {high[1]:.3g} m, "
            f"all flows of the training a channel of {wanted[0]:g} x {wanted[1]:g} m: the result "
            "may be wrong"
        )
    seen = obstacle_of(mesh)
    points = mesh.points[mesh.edges_of(NodeType.OBSTACLE)[:, 0]]
    away = np.hypot(*(points - [seen["centre_x"], seen["centre_y"]]).T) if seen else np.zeros(1)
    if not seen or np.abs(away / seen["radius"] - 1).max() > _ROUND:
        found.append(
            f"the mesh has {'an obstacle that is not one circle' if seen else 'no obstacle'}, all "
            "flows of the training one round cylinder: the result may be wrong"
        )
    if first_frame is not None:
        leak = float(divergence(mesh, first_frame[:, 0], first_frame[:, 1]).ratio)
        if leak > _LEAKS:
            found.append(
                f"the first frame is not free of divergence, which is {leak:.2f} of its gradient: "
                "it may belong to another mesh, or be noisy"
            )
    return found


def _worst(apart: Float[Tensor, "n p"], count: int | None) -> Float[Tensor, " n"]:
    count = apart.shape[1] if count is None else min(count, apart.shape[1])
    return apart.topk(count, 1).values.mean(1)


def features(latents: Float[Tensor, "m c *g"]) -> Float[Tensor, "m p c"]:
    """Return the channels of still frames, which do not depend on time, place by place."""
    return latents[:, : _LOOKS[-1][0]].mean(-1).flatten(2).transpose(1, 2)
