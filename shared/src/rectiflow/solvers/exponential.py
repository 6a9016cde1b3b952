"""Exponential integrators: DDIM, DPM-Solver and DPM-Solver++.

They solve the linear part of the flow exactly and expand only the prediction of the network, in the
half log-SNR ``lambda = log(a/b)``. Written for a path ``x_t = a x1 + b x0``; the data prediction is
``D = E[x1 | x_t]``, the noise prediction ``E = E[x0 | x_t]``, both read off the velocity.

Longer than 400 lines because the methods are one family: they share the coefficients at the end.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from rectiflow.conversions import finite
from rectiflow.grids import log_snr
from rectiflow.paths import Linear, Path
from rectiflow.plans import Plan, plan
from rectiflow.solvers.base import Move, Solver, by_length, combine, of_times
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State, select, settle

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField

_LINEAR = Linear()
_FEW_STEPS = 10  # below this many, a high order at the end does harm

_Chain: TypeAlias = tuple[tuple[Time, State], ...]


@dataclass(frozen=True)
class DDIM(Solver):
    r"""The exact first-order step, :math:`x_t = a_t D_s + b_t E_s`; one evaluation.

    It is also DPM-Solver-1 and DPM-Solver++-1, and on the linear path Euler's method; with fresh
    noise it is :class:`Ancestral`. It needs no lambda, so it runs from and to both ends. Flat
    spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.

    References
    ----------
    Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), Eq. (12).
    """

    path: Path = _LINEAR
    order = 1
    nfe = 1
    leaves = ("state", "velocity", "data")

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        x, v = context.begin(field, x, start)
        data = {"data": self.path.data(v, x, start)} if context.wants("data") else {}
        left = context.remember(start, stop, state=x, velocity=v, **data)
        return combine(first_order(self.path, start, stop), (x, v)), left


class _LogSNR(Solver):
    """A method in the half log-SNR; moves that touch t = 0 or 1, where it is infinite, are DDIM."""

    path: Path
    leaves = ("state", "velocity", "data")

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """One at the ends."""
        return self.nfe if _is_inside(self.path, start, stop) else 1

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        x, v = context.begin(field, x, start)
        data = {"data": self.path.data(v, x, start)} if context.wants("data") else {}
        left = context.remember(start, stop, state=x, velocity=v, **data)
        inside = _is_inside(self.path, start, stop)
        if inside is False:
            return combine(first_order(self.path, start, stop), (x, v)), left
        past = context.past(start, stop).get("data")
        if inside is True:
            return self._inside(field, x, v, start, stop, past), left
        # Rows at the ends take part at made-up times, and are replaced.
        within = select(inside, start, 0.25), select(inside, stop, 0.75)
        moved = self._inside(field, x, v, *within, past)
        return select(inside, moved, combine(first_order(self.path, start, stop), (x, v))), left

    @abstractmethod
    def _inside(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, past: _Chain
    ) -> State:
        """Take a step between two times of finite log-SNR."""


@dataclass(frozen=True)
class DPMSolver2(_LogSNR):
    r"""DPM-Solver-2: noise prediction, single step, two evaluations per step.

    With :math:`h = \lambda_t - \lambda_s` and E at the middle in lambda,
    :math:`x_t = \tfrac{a_t}{a_s} x - b_t (e^h - 1)\,E(u, s_1)`. Flat spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.

    References
    ----------
    Lu et al., "DPM-Solver" (NeurIPS 2022), Algorithm 1. Official code: LuChengTHU/dpm-solver, equal
    to rounding.
    """

    path: Path = _LINEAR
    order = 2
    nfe = 2

    def _inside(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, past: _Chain
    ) -> State:
        middle, half, whole = _two_stages(self.path, start, stop, _of_noise, _noise_read_off)
        u = combine(half, (x, v))
        return combine(whole, (x, u, field(u, middle)))


@dataclass(frozen=True)
class DPMSolver3(_LogSNR):
    """DPM-Solver-3: noise prediction, single step, three evaluations per step.

    Intermediate points at h/3 and 2h/3. Flat spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.

    References
    ----------
    Lu et al., "DPM-Solver" (NeurIPS 2022), Algorithm 2. Official code: LuChengTHU/dpm-solver, equal
    to rounding.
    """

    path: Path = _LINEAR
    order = 3
    nfe = 3

    def _inside(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, past: _Chain
    ) -> State:
        s1, s2, first, second, whole = _three_stages_of_noise(self.path, start, stop)
        u1 = combine(first, (x, v))
        u2 = combine(second, (x, v, u1, field(u1, s1)))
        return combine(whole, (x, v, u2, field(u2, s2)))


@dataclass(frozen=True)
class DPMSolverPP2S(_LogSNR):
    r"""DPM-Solver++(2S): data prediction, single step, two evaluations per step.

    It takes D at the middle of the interval in lambda,
    :math:`x_t = \tfrac{b_t}{b_s} x - a_t (e^{-h} - 1)\,D(u, s_1)`. Flat spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.

    References
    ----------
    Lu et al., "DPM-Solver++" (2022), Algorithm 1. Official code: LuChengTHU/dpm-solver, equal to
    rounding.
    """

    path: Path = _LINEAR
    order = 2
    nfe = 2

    def _inside(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, past: _Chain
    ) -> State:
        middle, half, whole = _two_stages(self.path, start, stop, _of_data, _data_read_off)
        u = combine(half, (x, v))
        return combine(whole, (x, u, field(u, middle)))


class _Multistep(_LogSNR):
    """DPM-Solver++ with data predictions of past steps."""

    lower_order_final: bool
    curvature_weight = 2.0
    terms: int
    nfe = 1

    reads = property(lambda self: {"data": self.terms - 1})

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the steps, the last ones of lower order when there are few."""
        settled: Any = replace(self, lower_order_final=False)  # type: ignore[type-var]
        moves = [move._replace(solver=settled) for move in super().moves(times)]
        if self.lower_order_final and len(moves) < _FEW_STEPS:
            lower = [DDIM(self.path), DPMSolverPP2M(self.path, lower_order_final=False)]
            for left, solver in enumerate(lower[: min(self.terms - 1, len(moves))], start=1):
                moves[-left] = moves[-left]._replace(solver=solver)
        return moves

    def _inside(
        self, field: VelocityField, x: State, v: State, start: Time, stop: Time, past: _Chain
    ) -> State:
        past = past[: self.terms - 1]
        times = (start, stop, *(t for t, _ in past))
        weights = _past_data(self.path, self.curvature_weight, *times)
        return combine(weights, (x, v, *(value for _, value in past)))


@dataclass(frozen=True)
class DPMSolverPP2M(_Multistep):
    r"""DPM-Solver++(2M): data prediction, one evaluation per step; second order.

    .. math:: x_t = \tfrac{b_t}{b_s} x
              - a_t \phi_1 \bigl(D_s + \tfrac{1}{2 r_0}(D_s - D_{s-1})\bigr)

    with :math:`\phi_1 = e^{-h} - 1` and :math:`r_0` the last step in lambda over this one. The
    first step is DDIM. Flat spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.
    lower_order_final : bool, default True
        Plans of fewer than 10 steps end with DDIM.

    Notes
    -----
    On a grid that starts at exactly t = 0 the first two steps are of order 1, because lambda is
    infinite there, and the order measured over ``[0, 1]`` is below 2. Use
    :func:`rectiflow.grids.log_snr`.

    References
    ----------
    Lu et al., "DPM-Solver++" (2022), Algorithm 2. Official code: LuChengTHU/dpm-solver.
    """

    path: Path = _LINEAR
    lower_order_final: bool = True
    order = 2
    terms = 2


@dataclass(frozen=True)
class DPMSolverPP3M(_Multistep):
    r"""DPM-Solver++(3M): data prediction, one evaluation per step; third order.

    .. math:: x_t = \tfrac{b_t}{b_s} x - a_t \phi_1 D_s + a_t \phi_2 D^{(1)} - k\,a_t \phi_3 D^{(2)}

    with :math:`\phi_1 = e^{-h} - 1,\ \phi_2 = \phi_1/h + 1,\ \phi_3 = \phi_2/h - \tfrac12` and
    divided differences of past D in lambda. The first steps use the lower orders. Flat spaces only.

    Parameters
    ----------
    path : Path
        The path that the field was trained on; the linear path by default.
    lower_order_final : bool, default True
        Plans of fewer than 10 steps end with 2M and DDIM.
    curvature_weight : float, default 2
        The weight k. The Taylor expansion gives 2 and order 3. The published code has 1 and order
        2: ``DPMSolverPP3M(lower_order_final=False, curvature_weight=1.0)`` gives its samples.

    References
    ----------
    Lu et al., "DPM-Solver++" (2022), Algorithm 2. Official code: LuChengTHU/dpm-solver.
    """

    path: Path = _LINEAR
    lower_order_final: bool = True
    curvature_weight: float = 2.0
    terms = 3

    order = property(lambda self: 3 if self.curvature_weight == 2.0 else 2)  # Taylor's


def fast_plan(evaluations: int, t_min: float, t_max: float, path: Path = _LINEAR) -> Plan:
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
    solvers: dict[int, Solver] = {1: DDIM(path), 2: DPMSolver2(path), 3: DPMSolver3(path)}
    first, *others = (
        plan(ends, solvers[order]) for ends, order in zip(pairwise(grid), orders, strict=True)
    )
    return sum(others, start=first)


@of_times
def first_order(path: Path, start: Any, stop: Any, kept: Any = 1.0) -> tuple[Time, Time]:
    """Weights of x and v in ``a_t D_s + kept b_t E_s``."""
    a, b, *_ = path.coeffs(stop)
    asked = "the velocity does not determine finite predictions of data and noise"
    data_v, data_x, noise_v, noise_x = (finite(f, asked, start) for f in path.inverse(start))
    return a * data_x + kept * b * noise_x, a * data_v + kept * b * noise_v


@of_times
def _is_inside(path: Path, start: Any, stop: Any) -> bool | Tensor:
    return settle(_is_finite(path.lam(start)) & _is_finite(path.lam(stop)))


@of_times
def _two_stages(
    path: Path, start: Any, stop: Any, held: Callable[..., Any], read_off: Callable[..., Any]
) -> tuple[Any, ...]:
    """Return the middle, the weights of x and v there, and at the end of x, middle and its v.

    ``held`` weighs a prediction that is held over a span, and ``read_off`` reads it off a velocity.
    """
    lam = path.lam(start)
    h = path.lam(stop) - lam
    middle = path.t_of_lam(lam + h / 2)
    of_x, of_prediction = held(path, start, middle, h / 2)
    half = read_off(path, start, of_prediction)
    whole, of_prediction = held(path, start, stop, h)
    return middle, (of_x + half[0], half[1]), (whole, *read_off(path, middle, of_prediction))


@of_times
def _three_stages_of_noise(path: Path, start: Any, stop: Any) -> tuple[Any, ...]:
    """Return two times between, and for each stage the weights of x, v, a later point and its v."""
    lam = path.lam(start)
    h = path.lam(stop) - lam
    s1, s2 = path.t_of_lam(lam + h / 3), path.t_of_lam(lam + 2 * h / 3)

    def bent(t: Time, span: Time, later: Time, weight: Time) -> tuple[Time, ...]:
        """Bend the step by the change of the noise from the start to ``later``."""
        of_x, of_noise = _of_noise(path, start, t, span)
        bend = path.coeffs(t).b * weight
        first = _noise_read_off(path, start, of_noise + bend)
        return (of_x + first[0], first[1], *_noise_read_off(path, later, -bend))

    of_x, of_noise = _of_noise(path, start, s1, h / 3)
    first = _noise_read_off(path, start, of_noise)
    second = bent(s2, 2 * h / 3, s1, 2 * _phi2(2 * h / 3))
    return s1, s2, (of_x + first[0], first[1]), second, bent(stop, h, s2, 1.5 * _phi2(h))


@of_times
def _past_data(path: Path, curvature: float, start: Any, stop: Any, *past: Any) -> list[Time]:
    """Weights of x, of the velocity and of past data predictions, newest first."""
    lams = [path.lam(t) for t in (start, *past)]
    h = path.lam(stop) - lams[0]
    steps = [(later - earlier) / h for later, earlier in pairwise(lams)]
    known = [settle(_is_finite(lam)) for lam in lams[1:]]  # not at t = 0, nor where it is NaN
    a, b, *_ = path.coeffs(stop)
    newest, *older = by_length(known, lambda count: _expansion(h, steps[:count], curvature))
    of_x, of_v = _data_read_off(path, start, a * newest)
    return [b / path.coeffs(start).b + of_x, of_v, *(a * w for w in older)]


def _data_read_off(path: Path, t: Any, weight: Time) -> tuple[Time, Time]:
    """Weights of point and velocity in the data prediction at t, times a weight."""
    known = path.inverse(t)
    return weight * known.data_x, weight * known.data_v


def _noise_read_off(path: Path, t: Any, weight: Time) -> tuple[Time, Time]:
    known = path.inverse(t)
    return weight * known.noise_x, weight * known.noise_v


def _expansion(h: Time, steps: list[Time], curvature: float) -> tuple[Time, ...]:
    """Weights of the data predictions over ``a_t``, newest first; ``steps`` in units of h."""
    p1 = _expm1(-h)
    if not steps:
        return (-p1,)
    r0 = steps[0]
    if len(steps) == 1:
        return (-p1 - p1 / (2 * r0), p1 / (2 * r0))
    r1 = steps[1]
    p2 = p1 / h + 1
    p3 = p2 / h - 0.5
    # D1 = slope_new + r0/(r0+r1) (slope_new - slope_old), D2 = (slope_new - slope_old)/(r0+r1).
    bend = (p2 * r0 - curvature * p3) / (r0 + r1)
    new, old = (p2 + bend) / r0, -bend / r1
    return (-p1 + new, old - new, -old)


def _of_noise(path: Path, start: Any, stop: Any, h: Time) -> tuple[Time, Time]:
    """Weights of x and of a constant noise prediction, ``h`` further in lambda."""
    a, b, *_ = path.coeffs(stop)
    return a / path.coeffs(start).a, -b * _expm1(h)


def _of_data(path: Path, start: Any, stop: Any, h: Time) -> tuple[Time, Time]:
    """Weights of x and of a constant data prediction, ``h`` further in lambda."""
    a, b, *_ = path.coeffs(stop)
    return b / path.coeffs(start).b, -a * _expm1(-h)


def _phi2(h: Time) -> Time:
    return _expm1(h) / h - 1


def _expm1(h: Time) -> Time:
    return h.expm1() if isinstance(h, torch.Tensor) else math.expm1(h)


def _is_finite(value: Time) -> bool | Tensor:
    return value.isfinite() if isinstance(value, torch.Tensor) else math.isfinite(value)
