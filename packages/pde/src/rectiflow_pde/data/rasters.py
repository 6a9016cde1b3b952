"""Flows on a raster as examples to train on: small, regular, and read from the mesh once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_pde.data.windows import mirrored_numbers
from rectiflow_pde.raster import Raster
from rectiflow_pde.scaling import Scaling
from rectiflow_pde.trajectory import Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float


class RasteredFlows(Dataset[dict[str, Tensor]]):
    """Stretches of some frames, at random begins, half of them upside down.

    Item ``(row, draw)`` is a pure function of both and of the seed; item ``row`` is the first
    frames as they are. An example holds ``flow (3, x, y, t)`` in units of the inflow and
    ``numbers (5,)``.

    Parameters
    ----------
    flows : sequence of Trajectory
        Of one frame step.
    raster : Raster
    scaling : Scaling
    frames : int
        Of a stretch.
    seed : int
    """

    def __init__(
        self,
        flows: Sequence[Trajectory],
        raster: Raster,
        scaling: Scaling,
        frames: int,
        *,
        seed: int = 0,
    ) -> None:
        self.scaling, self.frames, self.seed = scaling, frames, seed
        short = sum(len(flow.times) < frames for flow in flows)
        if short or not len(flows):
            raise ValueError(
                f"flows must have at least {frames} frames, got {short} shorter ones of "
                f"{len(flows)}; expected trajectories as long as the codec's. Prepare longer ones."
            )
        self.flows = [rastered(flow, raster, scaling) for flow in flows]
        self.numbers = [scaling.numbers(flow.parameters) for flow in flows]

    def __len__(self) -> int:
        return len(self.flows)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        row, draw = index if isinstance(index, tuple) else (index, None)
        whole, numbers = self.flows[row], self.numbers[row]
        if draw is None:
            return {"flow": whole[..., : self.frames], "numbers": numbers}
        generator = counter_generator("window", self.seed, row, draw)
        begin = int(torch.randint(whole.shape[-1] - self.frames + 1, (), generator=generator))
        flow = whole[..., begin : begin + self.frames]
        if torch.rand((), generator=generator) < 0.5:
            return {"flow": flow, "numbers": numbers}
        turn = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
        return {"flow": flow.flip(2) * turn, "numbers": mirrored_numbers(numbers, self.scaling)}


def rastered(flow: Trajectory, raster: Raster, scaling: Scaling) -> Float[Tensor, "3 x y t"]:
    """Return a flow on the raster, in units of the inflow."""
    grid = raster.from_mesh(flow.mesh, flow.stacked) / scaling.units(flow.parameters)
    return torch.from_numpy(np.moveaxis(grid, (3, 0), (0, 3)).astype(np.float32).copy())


def still(flow: Float[Tensor, "b k x y t"]) -> Float[Tensor, "b k x y t"]:
    """Return a flow that stands still at its first frame."""
    return flow[..., :1].expand_as(flow)
