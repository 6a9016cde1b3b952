"""Dormand and Prince's method: steps as long as an error estimate allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time, has
from rectiflow.states import State, leaves, map_state, select, settle

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
# Fifth minus fourth order, times 2/3: the estimate that torchdiffeq uses.
_ERROR = tuple(
    2 / 3 * e for e in (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
)
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0
_SHORTEST = 1e-14  # below, a step no longer moves a time of order 1


@dataclass(frozen=True)
class Dopri5(Solver):
    """Dormand-Prince 5(4): fifth order, as many steps inside a move as the tolerances ask for.

    Give it plans of few moves, ``plan([0, 1], Dopri5())``; each move chooses its first step anew.
    The steps are those of torchdiffeq's ``dopri5``: one size for the whole batch where times are
    numbers, so that more rows mean more steps; each row its own where they are tensors, which asks
    the field for times of shape ``(b,)``. Every step waits for the device, to read the error.
    Flat spaces only.

    Parameters
    ----------
    rtol, atol : float
        Relative and absolute tolerance of a step, root-mean-square over the state.
    max_steps : int, default 10000
        Steps of one move, after which it is given up.

    Raises
    ------
    RuntimeError
        When the steps vanish or their number runs out.

    Notes
    -----
    ``nfe`` counts one step of a move; two more evaluations find the first one.

    References
    ----------
    Dormand & Prince, "A family of embedded Runge-Kutta formulae" (1980). Hairer, Nørsett & Wanner,
    "Solving Ordinary Differential Equations I", section II.4.
    """

    rtol: float = 1e-7
    atol: float = 1e-9
    max_steps: int = 10_000
    order = 5
    nfe = 6
    traceable = False
    reads = {"next": 1}  # noqa: RUF012
    leaves = ("state", "velocity", "next")

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """Of a move of one step."""
        return self.nfe + (1 if known.get("next") else 2)

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        by_row = isinstance(start, Tensor) or isinstance(stop, Tensor)

        def rate(x: State, t: Tensor) -> State:
            return field(x, t if by_row else t.item())

        t, end = torch.broadcast_tensors(
            torch.as_tensor(start, dtype=torch.float64), torch.as_tensor(stop, dtype=torch.float64)
        )
        at, known = context.past(start, stop).newest("next", x)
        x, v = context.begin(field, x, start, known if has(at) is True else None)
        first, sign = (x, v), (end - t).sign()
        h = self._first_step(rate, x, v, t, end, by_row)
        for _ in range(self.max_steps):
            left = (end - t).abs()
            if not left.any():
                return x, context.remember(start, stop, state=first[0], velocity=first[1], next=v)
            if not (h[left > 0] > _SHORTEST).all():
                break
            h = torch.minimum(h, left)
            step, target = sign * h, torch.where(h < left, t + sign * h, end)
            k, span = [v], step if by_row else step.item()
            for c, row in _STAGES:
                new = combine((1.0, *(span * w for w in row)), (x, *k))
                k.append(rate(new, target if c == 1.0 else t + c * step))
            error = combine([span * e for e in _ERROR], k)
            ratio = self._norm(
                error, map_state(lambda a, b: torch.maximum(a.abs(), b.abs()), x, new), by_row
            )
            accepted = ratio <= 1
            taken = settle(accepted)
            x, v = select(taken, new, x), select(taken, k[-1], v)
            t = torch.where(accepted, target, t)
            factor = (_SAFETY * ratio**-0.2).clamp(_SHRINK, _GROW)
            h = h * torch.where(accepted, factor.clamp(min=1.0), factor)
        raise RuntimeError(
            f"{self} could not reach the end of its move, got as far as t={t.tolist()} of "
            f"{end.tolist()}; expected a smoother field or larger tolerances"
        )

    def _first_step(
        self, rate: Callable[..., State], x: State, v: State, t: Tensor, end: Tensor, by_row: bool
    ) -> Tensor:
        """Return the size of a first step, by comparing two velocities."""
        size = map_state(torch.abs, x)
        d0, d1 = self._norm(x, size, by_row), self._norm(v, size, by_row)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-6, 0.01 * d0 / d1)
        h0 = torch.minimum(h0, (end - t).abs())  # to stay on the path
        step = (end - t).sign() * h0
        later = rate(combine((1.0, step if by_row else step.item()), (x, v)), t + step)
        d2 = self._norm(combine((1.0, -1.0), (later, v)), size, by_row) / h0
        steepest = torch.maximum(d1, d2)
        h1 = torch.where(steepest <= 1e-15, (1e-3 * h0).clamp(min=1e-6), (0.01 / steepest) ** 0.2)
        return torch.minimum(100 * h0, h1)

    def _norm(self, x: State, size: State, by_row: bool) -> Tensor:
        """Root mean square of ``x`` in units of the tolerance at ``size``; the worst part's."""

        def rms(a: Tensor, scale: Tensor) -> Tensor:
            squares = (a / (self.atol + self.rtol * scale)).double().square()
            mean = squares.flatten(1).mean(1) if by_row else squares.sum() / max(squares.numel(), 1)
            return mean.sqrt()

        return torch.stack(leaves(map_state(rms, x, size))).amax(0).cpu()
