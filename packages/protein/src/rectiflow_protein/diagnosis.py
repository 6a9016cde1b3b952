"""The flow of chains as a field of one tensor: their positions, while rotations go along."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import torch
from rectiflow.diagnostics import trajectory, zero_mean_basis
from rectiflow.fields import VelocityField
from rectiflow.grids import uniform
from rectiflow.solvers import Euler
from rectiflow.states import State
from torch import Tensor

from rectiflow_protein.flow import FRAME_PATH, PRIOR_SCALE, START_TIME
from rectiflow_protein.frames import FRAME_SPACE
from rectiflow_protein.sampling import draw_noise


@torch.no_grad()
def positions_field(
    network: Any, length: int, count: int, *, seed: int = 0, steps: int = 50
) -> tuple[VelocityField, Tensor]:
    """Return the velocity of the positions of chains, and their noise.

    Rotations are at each time where the whole flow has them, solved once by Euler's method; so the
    score that the field stands for is the positions' part of the chain's. The network is told no
    earlier prediction. Positions are in units of their noise, 10 Å, in coordinates of the space
    of chains whose mean is zero: ``(count, length - 1, 3)``.

    Parameters
    ----------
    network : ReQFlowNetwork
        Of velocities; networks of maps have no field.
    length : int
        Residues of each chain.
    count : int
        Chains.
    seed : int
        Of their noise.
    steps : int
        Of the rotations' way.
    """
    if network.is_map:
        raise ValueError("the weights are of a network of maps, expected one of a flow's velocity.")
    if length < 2:
        raise ValueError(f"chains need at least 2 residues, got {length}.")
    device = next(network.parameters()).device
    drawn = [draw_noise(length, seed, index) for index in range(count)]
    x0: dict[str, Tensor] = {k: torch.stack([x[k] for x in drawn]).to(device) for k in drawn[0]}
    numbers = torch.arange(length, dtype=torch.float32, device=device).expand(count, length)

    def whole(x: State, t: float | Tensor) -> State:
        t = max(float(t), START_TIME)
        found = network(x, torch.full((count,), t, device=device), res_idx=numbers, res_mask=None)
        return FRAME_PATH.from_data(found, x, t)

    times = uniform(steps)
    states: Any = trajectory(whole, x0, times, Euler(), space=FRAME_SPACE)
    basis = zero_mean_basis(length).to(x0["trans"])

    def rotations(t: float) -> Tensor:
        before = min(bisect_right(times, t), steps) - 1
        share = (t - times[before]) / (times[before + 1] - times[before])
        first, last = states[before]["rot"], states[before + 1]["rot"]
        found = FRAME_SPACE.parts["rot"].geodesic(first, last, share)
        assert isinstance(found, Tensor)
        return found

    def field(z: State, t: float | Tensor) -> State:
        assert isinstance(z, Tensor)
        at = {"trans": PRIOR_SCALE * basis @ z, "rot": rotations(float(t))}
        velocity: Any = whole(at, t)
        return basis.T @ velocity["trans"] / PRIOR_SCALE

    return field, basis.T @ x0["trans"] / PRIOR_SCALE
