"""What a checkpoint was trained on, and whether a request lies within."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.scaling import NUMBERS, Scaling

if TYPE_CHECKING:
    from jaxtyping import Float

_SLACK = 0.02
"""Of the trained range, on either side."""

_WORDS = {
    "reynolds": "Reynolds number",
    "radius": "radius (m)",
    "centre_x": "position x (m)",
    "centre_y": "position y (m)",
    "u_mean": "mean inflow (m/s)",
}


class Guard(Pretrained, nn.Module):
    """First frames of the training in latents, and how far they are from each other.

    Parameters
    ----------
    count, channels : int
        How many frames are kept, and of how many numbers each.
    """

    frames: Float[Tensor, "m c"]
    limit: Float[Tensor, ""]

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("frames", torch.zeros(count, channels))
        self.register_buffer("limit", torch.tensor(torch.inf))

    @classmethod
    def of(cls, latents: Float[Tensor, "m c *g"]) -> Guard:
        """Keep the latents of still first frames, and allow what no training frame exceeds.

        The limit is a little over the largest distance of one of them from its nearest other.
        """
        rows = features(latents)
        made = cls(*rows.shape)
        made.frames.copy_(rows)
        if len(rows) > 1:
            apart = torch.cdist(rows, rows) + torch.diag(rows.new_full((len(rows),), torch.inf))
            made.limit.copy_(1.1 * apart.amin(1).max())
        return made

    def distance(self, latent: Float[Tensor, "1 c *g"]) -> float:
        """Return how far a first frame is from the nearest of the training, 1 at the limit."""
        nearest = torch.cdist(features(latent).to(self.frames), self.frames).amin()
        return float(nearest / self.limit)

    def judge(
        self, numbers: Mapping[str, float], scaling: Scaling, latent: Tensor | None = None
    ) -> list[str]:
        """Return a line for everything that lies outside of the training."""
        found = outside(numbers, scaling)
        if latent is not None and (far := self.distance(latent)) > 1:
            found.append(
                f"the first frame is unlike those of the training: {far:.2f} times as far from the "
                "nearest as any of them"
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


def features(latents: Float[Tensor, "m c *g"]) -> Float[Tensor, "m k"]:
    """Return the leading channels of still frames, which do not depend on time, as rows."""
    return latents[:, :8].mean(-1).flatten(1)
