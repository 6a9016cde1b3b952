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

    A flow whose frames are nearer to each other than those of a stretch gives stretches at other
    paces too. Every n-th frame of a flow, in units of its inflow, is every frame of one that is n
    times as fast and as viscous: both have one Reynolds number.

    Parameters
    ----------
    flows : sequence of Trajectory
        Each of one frame step.
    raster : Raster
    scaling : Scaling
    frames : int
        Of a stretch.
    step : float, optional
        Seconds between its frames; those between the frames of the first flow if absent.
    paces : sequence of float
        Speeds that a stretch may have, where its flow has the frames and lasts long enough; 1, that
        of the flow itself, always can.
    seed : int

    Attributes
    ----------
    flows : list of Tensor, shape (3, x, y, t)
        Whole flows at their own pace.

    Raises
    ------
    ValueError
        If a flow is too short, or has no frames ``step`` apart.
    """

    def __init__(
        self,
        flows: Sequence[Trajectory],
        raster: Raster,
        scaling: Scaling,
        frames: int,
        *,
        step: float | None = None,
        paces: Sequence[float] = (1.0,),
        seed: int = 0,
    ) -> None:
        self.scaling, self.frames, self.seed = scaling, frames, seed
        if not len(flows):
            raise ValueError("got no flows; expected at least one.")
        step = flows[0].frame_step if step is None else step
        self.strides = [_strides(flow, step, frames, paces) for flow in flows]
        self.fine = [rastered(flow, raster, scaling) for flow in flows]
        self.flows = [
            flow[..., :: each[1.0]] for flow, each in zip(self.fine, self.strides, strict=True)
        ]
        self.parameters = [flow.parameters for flow in flows]

    def __len__(self) -> int:
        return len(self.flows)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        row, draw = index if isinstance(index, tuple) else (index, None)
        told = self.parameters[row]
        if draw is None:
            numbers = self.scaling.numbers(told)
            return {"flow": self.flows[row][..., : self.frames], "numbers": numbers}
        generator = counter_generator("window", self.seed, row, draw)
        choices = list(self.strides[row].items())
        alone = len(choices) == 1
        pace, stride = choices[
            0 if alone else int(torch.randint(len(choices), (), generator=generator))
        ]
        numbers = self.scaling.numbers({**told, "u_mean": pace * told["u_mean"]})
        whole, last = self.fine[row], (self.frames - 1) * stride
        begin = int(torch.randint(whole.shape[-1] - last, (), generator=generator))
        flow = whole[..., begin : begin + last + 1 : stride]
        if torch.rand((), generator=generator) < 0.5:
            return {"flow": flow, "numbers": numbers}
        turn = torch.tensor([1.0, -1.0, 1.0])[:, None, None, None]
        return {"flow": flow.flip(2) * turn, "numbers": mirrored_numbers(numbers, self.scaling)}


def _strides(
    flow: Trajectory, step: float, frames: int, paces: Sequence[float]
) -> dict[float, int]:
    """Return by pace how many frames of a flow lie from one of a stretch to the next."""
    found: dict[float, int] = {}
    for pace in dict.fromkeys((1.0, *paces)):
        stride = flow.stride(pace * step)
        if stride is not None and (frames - 1) * stride < len(flow.times):
            found[pace] = stride
        elif pace == 1.0:
            raise ValueError(
                f"flows must have at least {frames} frames {step:g} s apart, got one of "
                f"{len(flow.times)} frames {flow.frame_step:g} s apart; expected trajectories as "
                f"long as the codec's, {step:g} s or a whole part of it apart. Prepare others."
            )
    return found


def rastered(flow: Trajectory, raster: Raster, scaling: Scaling) -> Float[Tensor, "3 x y t"]:
    """Return a flow on the raster, in units of the inflow."""
    grid = raster.from_mesh(flow.mesh, flow.stacked) / scaling.units(flow.parameters)
    return torch.from_numpy(np.moveaxis(grid, (3, 0), (0, 3)).astype(np.float32).copy())


def still(flow: Float[Tensor, "b k x y t"]) -> Float[Tensor, "b k x y t"]:
    """Return a flow that stands still at its first frame."""
    return flow[..., :1].expand_as(flow)
