"""Second order for one evaluation per step: a velocity of the last step is the next first stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rectiflow.solvers.base import History, Solver, combine
from rectiflow.solvers.runge_kutta import Carry
from rectiflow.states import State, map_state

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space


def _carried(history: History, start: float, stop: float) -> State | None:
    """Return the velocity that the move before left for this one."""
    past = history.before(start, stop)
    memo = past[0].memo if past else None
    return memo.v if isinstance(memo, Carry) else None


class ReusedMidpoint(Solver):
    r"""FireFlow: the midpoint rule, with the last midpoint velocity as its first stage; 1 per step.

    .. math:: m_n = v\bigl(x_n + \tfrac{h}{2} m_{n-1},\; t_n + \tfrac{h}{2}\bigr), \qquad
              x_{n+1} = x_n + h\,m_n

    Order 2. The first step is a plain midpoint step, N + 1 evaluations in all. Each point moves
    along one velocity, so it runs on every space where :class:`Midpoint` does. The cheap choice for
    inversion.

    References
    ----------
    Deng et al., "FireFlow: Fast Inversion of Rectified Flow for Image Semantic Editing"
    (ICML 2025), Algorithm 1.
    """

    order = 2
    nfe = 1
    memory = 1
    flat_only = False

    def step(
        self,
        field: VelocityField,
        x: State,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> State:
        """Advance ``x`` by one step; see :meth:`Solver.step`."""
        h = stop - start
        first = _carried(history, start, stop) if v is None else v
        if first is None:
            first = v = field(x, start)
        middle = field(space.move(x, first, h / 2), start + h / 2)
        history.push(start, x, v, stop, Carry(middle))
        return space.move(x, middle, h)

    def __repr__(self) -> str:
        return "ReusedMidpoint()"


class PseudoCorrector(Solver):
    r"""FlowTurbo's pseudo corrector: Heun's method with the predicted end velocity carried over.

    .. math:: d_n = v(x_n + h\,d_{n-1},\; t_{n+1}), \qquad
              x_{n+1} = x_n + \tfrac{h}{2}(d_{n-1} + d_n)

    Order 2, one evaluation per step. After :class:`Heun` steps it takes over their last velocity;
    on its own the first step costs one more. Flat spaces only.

    References
    ----------
    Zhao et al., "FlowTurbo: Towards Real-time Flow-Based Image Generation with Velocity Refiner"
    (NeurIPS 2024), section 3.3. Official code: shiml20/FlowTurbo; its stand-alone integrator
    fails on these steps, its assembled sampler agrees.
    """

    order = 2
    nfe = 1
    memory = 1

    def step(
        self,
        field: VelocityField,
        x: State,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> State:
        """Advance ``x`` by one step; see :meth:`Solver.step`."""
        h = stop - start
        first = _carried(history, start, stop) if v is None else v
        if first is None:
            first = field(x, start)
        last = field(space.move(x, first, h), stop)
        history.push(start, x, first, stop, Carry(last))
        return space.move(x, combine((0.5, 0.5), (first, last)), h)

    def __repr__(self) -> str:
        return "PseudoCorrector()"


class Refine(Solver):
    r"""FlowTurbo's refiner step: a small network corrects the carried velocity, twice per step.

    .. math:: d' = d + R(x_n, t_n, d), \quad d'' = d' + R(x_n + h d', t_{n+1}, d'), \quad
              x_{n+1} = x_n + \tfrac{h}{2}(d' + d'')

    and :math:`d'` is carried. With the exact refiner, R = v - d, it is Heun's method. The field
    itself is evaluated only when no velocity is carried. Flat spaces only.

    Parameters
    ----------
    refiner : callable
        ``refiner(x, t, v)``: what to add to the nearby velocity ``v`` to get the one at ``(x, t)``.

    References
    ----------
    Zhao et al., "FlowTurbo" (NeurIPS 2024), section 3.2.
    """

    order = 2
    nfe = 0
    memory = 1

    def __init__(self, refiner: Callable[[State, float | Tensor, State], State]) -> None:
        self.refiner = refiner

    def step(
        self,
        field: VelocityField,
        x: State,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> State:
        """Advance ``x`` by one step; see :meth:`Solver.step`."""
        h = stop - start
        near = _carried(history, start, stop) if v is None else v
        if near is None:
            near = field(x, start)
        first = self._refined(x, start, near)
        last = self._refined(space.move(x, first, h), stop, first)
        history.push(start, x, first, stop, Carry(first))
        return space.move(x, combine((0.5, 0.5), (first, last)), h)

    def _refined(self, x: State, t: float, near: State) -> State:
        return map_state(lambda a, b: a + b, near, self.refiner(x, t, near))

    def __repr__(self) -> str:
        return f"Refine({self.refiner!r})"
