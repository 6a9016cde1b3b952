"""Second order for one evaluation per step: a velocity of the last step is the next first stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time, has
from rectiflow.states import State, select

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space


class _Reuse(Solver):
    """A method whose first stage is the velocity that the move before carries over."""

    order = 2
    nfe = 1
    reads = {"carried": 1}  # noqa: RUF012
    leaves = ("state", "carried")

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """One more where no velocity is carried over."""
        return self.nfe + (not known.get("carried"))

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        t, carried = context.past(start, stop).newest("carried", x)
        known = has(t)
        if known is not True:
            carried = select(known, carried, field(x, start))
        x, first = context.begin(field, x, start, carried)
        # What was evaluated at the start is worth knowing; what was carried over is not exact.
        exact = {"velocity": first} if known is False else {}
        moved, last = self._move(field, x, first, start, stop, context.space)
        return moved, context.remember(start, stop, state=x, carried=last, **exact)

    @abstractmethod
    def _move(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, space: Space
    ) -> tuple[State, State]:
        """Return the state at ``stop`` and the velocity to carry over."""


@dataclass(frozen=True)
class FireFlow(_Reuse):
    r"""FireFlow: the midpoint rule, the last midpoint velocity as its first stage; 1 per step.

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

    flat_only = False

    def _move(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, space: Space
    ) -> tuple[State, State]:
        h = stop - start
        middle = field(space.move(x, v, h / 2), start + h / 2)
        return space.move(x, middle, h), middle


@dataclass(frozen=True)
class PseudoCorrector(_Reuse):
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

    def _move(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, space: Space
    ) -> tuple[State, State]:
        h = stop - start
        last = field(space.move(x, v, h), stop)
        return combine((1.0, h / 2, h / 2), (x, v, last)), last


@dataclass(frozen=True)
class Refine(_Reuse):
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

    refiner: Callable[[State, Time, State], State]
    nfe = 0

    def _move(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, space: Space
    ) -> tuple[State, State]:
        h = stop - start
        first = self._refined(x, start, v)
        last = self._refined(space.move(x, first, h), stop, first)
        return combine((1.0, h / 2, h / 2), (x, first, last)), first

    def _refined(self, x: State, t: Time, near: State) -> State:
        return combine((1.0, 1.0), (near, self.refiner(x, t, near)))
