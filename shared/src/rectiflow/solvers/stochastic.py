"""Stochastic solvers: part of the noise is drawn afresh in every step; the marginals stay."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.paths import Linear, Path
from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.solvers.exponential import first_order
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_LINEAR = Linear()
# Nodes and weights of Gauss-Legendre quadrature on [0, 1].
_NODES = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15))
_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)


class _FreshNoise(Solver):
    r"""A first-order step that keeps a part :math:`\rho` of the noise and draws the rest.

    .. math:: x_t = a_t D_s + b_t \bigl(\rho E_s + \sqrt{1 - \rho^2}\, z\bigr)

    with the data prediction D and the noise prediction E at the start and fresh normal z. It has
    the marginals of the ODE for every :math:`\rho` in [0, 1], which 1 is.
    """

    path: Path
    order = 1
    nfe = 1
    traceable = False
    leaves = ("state", "velocity")

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        start, stop = self._checked(start, stop)
        x, v = context.begin(field, x, start)
        left = context.remember(start, stop, state=x, velocity=v)
        kept = self._kept(start, stop)
        fresh = self.path.coeffs(stop).b * math.sqrt(1.0 - kept**2)
        weights, states = first_order(self.path, start, stop, kept), (x, v)
        if fresh == 0.0:
            return combine(weights, states), left
        return combine((*weights, fresh), (*states, self._fresh(x, context))), left

    def _checked(self, start: Time, stop: Time) -> tuple[float, float]:
        if not isinstance(start, float) or not isinstance(stop, float):
            raise ValueError(
                f"{self} draws noise for whole batches, got times per row; expected numbers"
            )
        if stop < start:
            raise ValueError(
                f"{self} samples towards the data, got a move from {start} to {stop}; expected "
                "stop > start. Invert with a deterministic solver"
            )
        return start, stop

    def _fresh(self, x: State, context: Context) -> State:
        if context.noise is None:
            raise ValueError(
                f"{self} draws noise, got none; expected noise=KeyedNoise(seed, samples)"
            )
        return context.noise.like(x)

    @abstractmethod
    def _kept(self, start: float, stop: float) -> float:
        """Return the part of the noise that is kept."""


@dataclass(frozen=True)
class Ancestral(_FreshNoise):
    r"""Ancestral sampling, DDIM with fresh noise; one evaluation per step, first order.

    .. math:: x_t = a_t D_s + \sqrt{b_t^2 - s^2}\, E_s + s\, z, \qquad
              s = \eta\, b_t \sqrt{1 - e^{-2h}}

    with z fresh and h the step in the half log-SNR. Flat spaces only; towards the data only.

    Parameters
    ----------
    eta : float, default 1
        In ``[0, 1]``: 0 is :class:`DDIM`, 1 is DDPM.
    path : Path
        The path that the field was trained on, with standard-normal noise.

    Raises
    ------
    ValueError
        When ``eta`` is outside ``[0, 1]``; in a step without noise, or towards the noise.

    References
    ----------
    Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), Eq. (16).
    """

    eta: float = 1.0
    path: Path = _LINEAR

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}; expected 0 for no noise")

    def _kept(self, start: float, stop: float) -> float:
        h = self.path.lam(stop) - self.path.lam(start)
        return math.sqrt(1.0 + self.eta**2 * math.expm1(-2 * h))


@dataclass(frozen=True)
class InterpolantSDE(_FreshNoise):
    r"""The stochastic interpolant's SDE with any noise level; one evaluation per step.

    .. math:: dx = \bigl(v + \epsilon(t)\, \nabla\log p_t(x)\bigr)\,dt + \sqrt{2 \epsilon(t)}\,dW

    has the marginals of the ODE for every :math:`\epsilon \ge 0`. A step solves it exactly for
    predictions held over the step, which keeps it stable up to t = 1, where the drift of a plain
    Euler-Maruyama step grows without bound. Weak order 1; flat spaces only; towards the data only.

    Parameters
    ----------
    epsilon : float or callable
        The noise level, a number or a function of time; 0 is :class:`DDIM`.
    path : Path
        The path that the field was trained on, with standard-normal noise.
    score : callable, optional
        ``score(x, t)``, where another network knows it, as on a path with noise on the way; the
        path is not asked then, and a step is a plain Euler-Maruyama step.

    Raises
    ------
    ValueError
        When ``epsilon`` is negative; in a step without noise, or towards the noise.

    References
    ----------
    Albergo et al., "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions" (2023),
    Corollary 18. Ma et al., "SiT" (ECCV 2024), section 2.
    """

    epsilon: float | Callable[[float], float] = 1.0
    path: Path = _LINEAR
    score: Callable[[State, Time], State] | None = None

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        if self.score is None:
            return super().step(field, x, start, stop, context)
        start, stop = self._checked(start, stop)
        x, v = context.begin(field, x, start)
        amount = self._integral(start, stop, lambda t: 1.0)
        states = (x, v, self.score(x, start), self._fresh(x, context))
        moved = combine((1.0, stop - start, amount, math.sqrt(2 * amount)), states)
        return moved, context.remember(start, stop, state=x, velocity=v)

    def _kept(self, start: float, stop: float) -> float:
        return math.exp(-self._integral(start, stop, lambda t: self.path.coeffs(t).b ** 2))

    def _integral(self, start: float, stop: float, of: Callable[[float], float]) -> float:
        """Integrate the noise level over a function of time, by Gauss's three points."""
        h, total = stop - start, 0.0
        for node, weight in zip(_NODES, _WEIGHTS, strict=True):
            t = start + node * h
            level = self.epsilon if isinstance(self.epsilon, int | float) else self.epsilon(t)
            if not level >= 0.0:
                raise ValueError(f"epsilon must not be negative, got {level} at t={t:.6g}")
            total += weight * h * level / of(t)
        return total
