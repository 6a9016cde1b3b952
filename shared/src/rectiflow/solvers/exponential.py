"""Exponential integrators: DPM-Solver and DPM-Solver++.

They solve the linear part of the flow exactly and expand only the prediction of the network, in the
half log-SNR ``lambda = log(a/b)``. Written for a path ``x_t = a x1 + b x0``; the data prediction is
``D = E[x1 | x_t]``, the noise prediction ``E = E[x0 | x_t]``, both read off the velocity.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rectiflow.grids import log_snr
from rectiflow.paths import Linear, Path
from rectiflow.solvers.base import History, Move, Solver, combine
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.spaces import Space

_LINEAR = Linear()
_FEW_STEPS = 10  # below this many, a high order at the end does harm


class Exponential(Solver):
    r"""What the exponential integrators share: conversions and the exact first-order step.

    The first order is :math:`x_t = a_t D_s + b_t E_s` whatever is predicted: DDIM, and on
    the linear path Euler. It needs no lambda, so moves that touch ``t = 0`` or ``t = 1``, where
    lambda is infinite, use it; the others have the full order. Flat spaces only.

    Parameters
    ----------
    order : int
        The order.
    path : Path
        The path that the field was trained on; the linear path by default.

    Raises
    ------
    ValueError
        When the family has no method of this order.
    """

    orders: tuple[int, ...]

    def __init__(self, order: int, path: Path = _LINEAR) -> None:
        if order not in self.orders:
            raise ValueError(
                f"{type(self).__name__} has no order {order}, got order={order}; expected one of "
                f"{', '.join(map(str, self.orders))}"
            )
        self.path = path
        self.order = order
        self.nfe = order

    @staticmethod
    def published_3m(path: Path = _LINEAR) -> MultistepDPMSolverPP:
        """Return DPM-Solver++(3M) with the weight of the published code, which has order 2.

        Only to reproduce published samples: :class:`MultistepDPMSolverPP` has the weight that the
        Taylor expansion gives, and order 3.
        """
        return MultistepDPMSolverPP(3, path, curvature_weight=1.0, lower_order_final=False)

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
        v = field(x, start) if v is None else v
        if self.order == 1 or self._touches_end(start) or self._touches_end(stop):
            history.push(start, x, v, stop)
            return self._first_order(x, v, start, stop)
        return self._step(field, x, v, start, stop, history)

    @abstractmethod
    def _step(
        self,
        field: VelocityField,
        x: State,
        v: State,
        start: float,
        stop: float,
        history: History,
    ) -> State:
        """Take a step between two times of finite log-SNR, and record it."""

    def _touches_end(self, t: float) -> bool:
        return math.isinf(self.path.lam(t))

    def _first_order(self, x: State, v: State, start: float, stop: float) -> State:
        a, b, _, _ = self.path.coeffs(stop)
        data, noise = self.path.data(v, x, start), self.path.noise(v, x, start)
        return combine((a, b), (data, noise))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.order}, {self.path!r})"


class DPMSolver(Exponential):
    r"""DPM-Solver 1, 2 and 3: noise prediction, single step, ``order`` evaluations per step.

    With :math:`h = \lambda_t - \lambda_s` and intermediate points at h/2 (order 2), h/3 and 2h/3
    (order 3); order 2 reads
    :math:`x_t = \tfrac{a_t}{a_s} x - b_t (e^h - 1)\,E(u, s_1)`.

    References
    ----------
    Lu et al., "DPM-Solver" (NeurIPS 2022), Algorithms 1 and 2. Official code:
    LuChengTHU/dpm-solver, equal to rounding.
    """

    orders = (1, 2, 3)

    def _step(
        self,
        field: VelocityField,
        x: State,
        v: State,
        start: float,
        stop: float,
        history: History,
    ) -> State:
        history.push(start, x, v, stop)
        path, a_start = self.path, self.path.coeffs(start).a
        lam = path.lam(start)
        h = path.lam(stop) - lam
        noise = path.noise(v, x, start)

        def point(t: float, span: float, *bend: tuple[float, State]) -> State:
            """Return x at ``t``, ``span`` further in lambda, with corrections to the noise."""
            a, b, _, _ = path.coeffs(t)
            terms = [(a / a_start, x), (-b * math.expm1(span), noise)]
            terms += [(-b * weight, change) for weight, change in bend]
            return combine(*zip(*terms, strict=True))

        def change(u: State, t: float) -> State:
            return combine((1.0, -1.0), (path.noise(field(u, t), u, t), noise))

        if self.order == 2:
            s1 = path.t_of_lam(lam + h / 2)
            return point(stop, h, (math.expm1(h), change(point(s1, h / 2), s1)))
        third = h / 3
        s1, s2 = path.t_of_lam(lam + third), path.t_of_lam(lam + 2 * third)
        d1 = change(point(s1, third), s1)
        d2 = change(point(s2, 2 * third, (2 * _phi2(2 * third), d1)), s2)
        return point(stop, h, (1.5 * _phi2(h), d2))


class DPMSolverPP(Exponential):
    r"""DPM-Solver++ 1 and 2S: data prediction, single step, ``order`` evaluations per step.

    Order 2 takes D at the middle of the interval in lambda,
    :math:`x_t = \tfrac{b_t}{b_s} x - a_t (e^{-h} - 1)\,D(u, s_1)`.

    References
    ----------
    Lu et al., "DPM-Solver++" (2022), Algorithm 1. Official code: LuChengTHU/dpm-solver, equal to
    rounding.
    """

    orders = (1, 2)

    def _step(
        self,
        field: VelocityField,
        x: State,
        v: State,
        start: float,
        stop: float,
        history: History,
    ) -> State:
        history.push(start, x, v, stop)
        path = self.path
        lam = path.lam(start)
        h = path.lam(stop) - lam
        middle = path.t_of_lam(lam + h / 2)
        b_start = path.coeffs(start)[1]
        a_middle, b_middle, _, _ = path.coeffs(middle)
        a_stop, b_stop, _, _ = path.coeffs(stop)
        d_start = path.data(v, x, start)
        u = combine((b_middle / b_start, -a_middle * math.expm1(-h / 2)), (x, d_start))
        d_middle = path.data(field(u, middle), u, middle)
        return combine((b_stop / b_start, -a_stop * math.expm1(-h)), (x, d_middle))


class MultistepDPMSolverPP(Exponential):
    r"""DPM-Solver++ 2M and 3M: data prediction, one evaluation per step.

    .. math:: x_t = \tfrac{b_t}{b_s} x - a_t \phi_1 D_s + a_t \phi_2 D^{(1)} - k\,a_t \phi_3 D^{(2)}

    with :math:`\phi_1 = e^{-h} - 1,\ \phi_2 = \phi_1/h + 1,\ \phi_3 = \phi_2/h - \tfrac12` and
    divided differences of past D in lambda. The first steps use the lower orders.

    Parameters
    ----------
    order : int, default 2
        1, 2 (2M) or 3 (3M).
    path : Path
        The path that the field was trained on; the linear path by default.
    curvature_weight : float, default 2
        The weight k. The Taylor expansion gives 2 and order 3; the published code has 1 and
        order 2, see :meth:`Exponential.published_3m`.
    lower_order_final : bool, default True
        Plans of fewer than 10 steps end with orders 2 and 1.

    Notes
    -----
    On a grid that starts at exactly t = 0 the first two steps are of order 1, because lambda is
    infinite there, and the order measured over ``[0, 1]`` is below 2. Use
    :func:`rectiflow.grids.log_snr`.

    References
    ----------
    Lu et al., "DPM-Solver++" (2022), Algorithm 2. Official code: LuChengTHU/dpm-solver.
    """

    orders = (1, 2, 3)

    def __init__(
        self,
        order: int = 2,
        path: Path = _LINEAR,
        *,
        curvature_weight: float = 2.0,
        lower_order_final: bool = True,
    ) -> None:
        super().__init__(order, path)
        self.terms = order
        self.order = order if curvature_weight == 2.0 else min(order, 2)
        self.nfe = 1
        self.memory = order - 1
        self.curvature_weight = curvature_weight
        self.lower_order_final = lower_order_final

    def moves(self, grid: Sequence[float]) -> list[Move]:
        """Lay out the steps, the last ones of lower order when there are few."""
        moves = super().moves(grid)
        if self.lower_order_final and len(moves) < _FEW_STEPS:
            for left in range(1, min(self.terms, len(moves) + 1)):
                lower = MultistepDPMSolverPP(left, self.path)
                moves[-left] = moves[-left]._replace(solver=lower)
        return moves

    def _step(
        self,
        field: VelocityField,
        x: State,
        v: State,
        start: float,
        stop: float,
        history: History,
    ) -> State:
        path = self.path
        lams, data = [path.lam(start)], [path.data(v, x, start)]
        for record in history.before(start, stop)[: self.terms - 1]:
            if record.v is None or self._touches_end(record.t):
                break
            lams.append(path.lam(record.t))
            data.append(path.data(record.v, record.x, record.t))
        history.push(start, x, v, stop)
        h = path.lam(stop) - lams[0]
        steps = [(later - earlier) / h for later, earlier in pairwise(lams)]
        b_start = path.coeffs(start)[1]
        a, b, _, _ = path.coeffs(stop)
        weights = [w * a for w in self._weights(h, steps)]
        return combine((b / b_start, *weights), (x, *data))

    def _weights(self, h: float, steps: list[float]) -> tuple[float, ...]:
        """Weights of the data predictions over ``a_t``, newest first; ``steps`` in units of h."""
        p1 = math.expm1(-h)
        if not steps:
            return (-p1,)
        r0 = steps[0]
        if len(steps) == 1:
            return (-p1 - p1 / (2 * r0), p1 / (2 * r0))
        r1 = steps[1]
        p2 = p1 / h + 1
        p3 = p2 / h - 0.5
        # D1 = slope_new + r0/(r0+r1) (slope_new - slope_old), D2 = (slope_new - slope_old)/(r0+r1).
        bend = (p2 * r0 - self.curvature_weight * p3) / (r0 + r1)
        new, old = (p2 + bend) / r0, -bend / r1
        return (-p1 + new, old - new, -old)


def fast_plan(evaluations: int, t_min: float, t_max: float, path: Path = _LINEAR) -> list[Move]:
    """Spend a budget of evaluations on single-step solvers, most of them of order 3.

    The "fast" version of DPM-Solver: groups of equal length in lambda, of order 3, 2 and 1 at the
    end so that the evaluations add up exactly.

    Parameters
    ----------
    evaluations : int
        The budget, at least 1.
    t_min, t_max : float
        Ends, strictly inside ``(0, 1)``.
    path : Path
        The path that the field was trained on; the linear path by default.

    Raises
    ------
    ValueError
        When ``evaluations < 1`` or the ends are out of range.

    References
    ----------
    Lu et al., "DPM-Solver" (NeurIPS 2022), section 3.4.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations must be at least 1, got {evaluations}; expected a budget")
    groups, left = evaluations // 3 + 1, evaluations % 3
    orders = [3] * (groups - 2) + [2, 1] if left == 0 else [3] * (groups - 1) + [left]
    grid = log_snr(groups, t_min, t_max, path)
    solvers = {order: DPMSolver(order, path) for order in set(orders)}
    return [
        Move(start, stop, solvers[order])
        for start, stop, order in zip(grid, grid[1:], orders, strict=False)
    ]


def _phi2(h: float) -> float:
    return math.expm1(h) / h - 1
