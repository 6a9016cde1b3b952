"""Consistency: from anywhere on a path, say where it ends; sampling in a few noisy leaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.paths import Linear, Path
from rectiflow.solvers.base import Solver
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.solvers.runge_kutta import Euler
from rectiflow.states import State, batch_of, combine, select
from rectiflow.storage.records import state_of

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField


class ConsistencyDistillation(nn.Module):
    r"""What the network takes for the data is the same all along a path of its teacher.

    With the data prediction :math:`f(x, t)`, which at t = 1 is x itself whatever the network says,
    and neighbours s < t of a grid:

    .. math:: \mathbb{E}\, D\bigl(f(x_s, s),\ \mathrm{sg}[f(\hat x_t, t)]\bigr)

    where the teacher's solver carries x from s to t. Without a teacher x goes along the line of its
    noise and data: consistency training.

    Parameters
    ----------
    network : nn.Module
        Says what the flow's prediction says; start it from the teacher, or adapt it by
        :func:`~rectiflow.rectify.adapted` (LCM-LoRA).
    flow : Flow
        Path, coupling, source, prediction and premetric (pseudo-Huber, as a rule).
    teacher : nn.Module, optional
        A network of the same flow; frozen.
    times : sequence of float, default 50 uniform steps
        The grid, from noise to data.
    skip : int, default 1
        Steps between neighbours.
    solver : Solver, default Euler
        The teacher's, one move.

    Notes
    -----
    A batch is one of :class:`~rectiflow.training.FlowObjective`; a condition is told to both.

    References
    ----------
    Song et al., "Consistency Models" (ICML 2023); Luo et al., "Latent Consistency Models"
    (arXiv 2310.04378); Song & Dhariwal (ICLR 2024), for a target that is the network itself.
    """

    def __init__(
        self,
        network: nn.Module,
        flow: Flow,
        teacher: nn.Module | None = None,
        *,
        times: Sequence[float] | None = None,
        skip: int = 1,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        self.network, self.flow = network, flow
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.times = tuple(uniform(50) if times is None else times)
        if not 1 <= skip < len(self.times):
            raise ValueError(f"skip must be at least 1 and fit the grid, got {skip}.")
        self.skip, self.solver = skip, solver or Euler()

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        x1, x0 = state_of(batch, "x1"), state_of(batch, "x0")
        if x1 is None:
            raise KeyError(f"batch has no data 'x1', got {sorted(batch)}.")
        size, device, dtype = batch_of(x1)
        flow, cond, mask = self.flow, state_of(batch, "cond"), batch.get("mask")
        noise = flow.noise_for(x1, x0=x0, mask=mask, generator=generator)
        steps = len(self.times) - 1
        index = torch.randint(steps, (size,), generator=generator, device=device).cpu()
        grid = torch.tensor(self.times, dtype=torch.float64)
        start, stop = grid[index], grid[(index + self.skip).clamp(max=steps)]
        s, t = start.to(device, dtype), stop.to(device, dtype)
        (point,) = flow.points(x1, x0=noise, t=s, mask=mask, generator=generator)
        with torch.no_grad():
            if self.teacher is None:
                (ahead,) = flow.points(x1, x0=noise, t=t, mask=mask, generator=generator)
                x = ahead.x
            else:
                field = flow.velocity(self.teacher, cond)
                x, _ = self.solver.step(field, point.x, start, stop, Context(flow.space))
            target = self.ends(x, t, cond)
        cost = flow.premetric(self.ends(point.x, s, cond), target, mask)
        return {"loss": cost.mean()}

    def ends(self, x: State, t: Tensor, cond: Any = None) -> State:
        """Return where the network takes the paths through ``x`` to end; ``x`` itself at t = 1."""
        path: Any = self.flow.path
        v = self.flow.velocity(self.network, cond)(x, t)
        return select(t >= 1, x, path.data(v, x, t))


@dataclass(frozen=True)
class ConsistencyStep(Solver):
    """Leap to the data and put fresh noise on it: one evaluation a step, for 1 to 8 steps.

    The path of the flow must have standard-normal noise. Towards the data only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on.

    References
    ----------
    Song et al., "Consistency Models" (ICML 2023), Algorithm 1.
    """

    path: Path = field(default_factory=Linear)
    order = 1
    nfe = 1
    traceable = False
    leaves = ("state", "velocity")

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        x, v = context.begin(field, x, start)
        left = context.remember(start, stop, state=x, velocity=v)
        data, to = self.path.data(v, x, start), self.path.coeffs(stop)
        if not isinstance(stop, Tensor) and to.b == 0:
            return data, left
        if context.noise is None:
            raise ValueError(
                f"{self} draws noise, got none; expected noise=KeyedNoise(seed, samples)"
            )
        return combine((to.a, to.b), (data, context.noise.like(x))), left
