"""How far a simulated flow is from the equations: a short stretch of it, solved again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.trajectory import Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Verified:
    """A stretch of a flow beside the solver's.

    Attributes
    ----------
    begin : int
        Frame that the solver started from.
    solved : Trajectory
    error : ndarray, shape (frames - 1,)
        Relative L2 error of the velocity of each frame after the first.
    """

    begin: int
    solved: Trajectory
    error: Float[np.ndarray, " f"]


def verify(flow: Trajectory, *, begin: int = 0, frames: int = 4) -> Verified:
    """Solve some frames of a flow again, from its own state in the first of them.

    What it tells is the true error of the stretch, if the start is true: then, errors of the start
    aside, the flow obeys the equations as far as they agree.

    Parameters
    ----------
    flow : Trajectory
        With ``u_mean`` and ``viscosity`` among its parameters.
    begin, frames : int
        The first frame, and how many there are with it.

    Raises
    ------
    ValueError
        If the flow has no such frames, or its mesh cannot be solved on.
    """
    from rectiflow_pde.solvers.cylinder import solve_flow

    if not 0 <= begin <= len(flow.times) - 2 or frames < 2:
        raise ValueError(
            f"a stretch needs two frames, got {frames} from frame {begin} on, of "
            f"{len(flow.times)}; expected a begin from 0 to {len(flow.times) - 2}."
        )
    part = slice(begin, begin + frames)
    initial = np.stack([flow.fields["u"][begin], flow.fields["v"][begin]])
    solved = solve_flow(flow.mesh, flow.parameters, flow.times[part].tolist(), initial=initial)
    found, true = (
        np.stack([fields["u"], fields["v"]], -1)
        for fields in ({k: v[part] for k, v in flow.fields.items()}, solved.fields)
    )
    size = np.sqrt((true[1:] ** 2).sum((1, 2)))
    error = np.sqrt(((found[1:] - true[1:]) ** 2).sum((1, 2))) / np.maximum(size, 1e-12)
    return Verified(begin, solved, error)
