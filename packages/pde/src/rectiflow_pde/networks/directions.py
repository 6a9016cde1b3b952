"""Directions for solving Poisson's equation, from a residual: a small network of all scales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

_COARSEST = 4


class DirectionNetwork(Pretrained, nn.Module):
    """A U-shaped network without biases whose levels share their weights.

    Each level halves the grid until few cells are left, so that one network serves every size: a
    level's answer is a share of its residual, four times the answer of the coarser level (a cell
    there is twice as wide), and what convolutions make of both. These begin as zero, which leaves
    the additive multilevel preconditioner of Bramble, Pasciak and Xu. Being without biases it is
    homogeneous: its answer scales with the residual.

    Parameters
    ----------
    width : int
        Channels inside.
    blocks : int
        Residual convolutions of a level.

    References
    ----------
    Kaneda et al., "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems"
    (ICML 2023), whose network has a fixed number of levels.
    """

    def __init__(self, width: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.2))
        self.begin = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(blocks)
        )
        self.end = nn.Conv2d(width, 1, 3, padding=1, bias=False)
        nn.init.zeros_(self.end.weight)

    def forward(
        self, r: Float[Tensor, "b h w"], fluid: Float[Tensor, "b h w"]
    ) -> Float[Tensor, "b h w"]:
        """Return directions of residuals in the fluid, ones and zeros."""
        return self._level((r * fluid)[:, None], fluid[:, None])[:, 0]

    def _level(self, r: Tensor, fluid: Tensor) -> Tensor:
        coarse = torch.zeros_like(r)
        if min(r.shape[-2:]) > _COARSEST:
            told = (F.avg_pool2d(each, 2, ceil_mode=True) for each in (r, fluid))
            below = F.interpolate(self._level(*told), scale_factor=2, mode="bilinear")
            coarse = 4 * below[..., : r.shape[-2], : r.shape[-1]] * fluid
        # In units of the residual, convolutions see where walls are, and stay homogeneous.
        walls = r.abs().mean((-2, -1), keepdim=True) * (1 - fluid)
        h = F.relu(self.begin(torch.cat([r, coarse, walls], 1)))
        for block in self.blocks:
            h = h + F.relu(block(h))
        return (self.share * r + coarse + self.end(h)) * fluid
