"""Mean-reverting diffusion: from a degraded sample, with noise around it, to the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rectiflow.conversions import Coefficients, Inverse, divide
from rectiflow.fields import VelocityField
from rectiflow.integrate import integrate
from rectiflow.paths import Path
from rectiflow.plans import Plan
from rectiflow.predictions import Data, Noise, Prediction
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.solvers.exponential import first_order
from rectiflow.states import State

_DATA = Data()


@dataclass(frozen=True)
class MeanReverting(Path):
    r"""The path around a mean: ``x_t - mu = a (x1 - mu) + b z``.

    .. math:: a = e^{-\Theta}, \qquad b = \sigma_\infty \sqrt{1 - a^2}, \qquad
              \Theta = \Theta_0 (1 - t)

    of an Ornstein-Uhlenbeck process with a constant rate. Another clock changes no update: a grid
    of equal noise levels is the same.

    Parameters
    ----------
    sigma : float, default 1
        Deviation of the noise at rest.
    total : float, default 4.6
        Integral of the rate: ``-log`` of what is left of the data at t = 0, 0.01.

    References
    ----------
    Luo et al., "Image Restoration with Mean-Reverting Stochastic Differential Equations" (ICML
    2023).
    """

    sigma: float = 1.0
    total: float = -math.log(0.01)

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and self.total > 0):
            raise ValueError(
                f"sigma and total must be positive, got {self.sigma} and {self.total}."
            )

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        rest = self.total * (1 - t)
        a, b = ops.exp(-rest), self.sigma * ops.sqrt(-ops.expm1(-2 * rest))
        return Coefficients(a, b, self.total * a, -divide(self.sigma**2 * self.total * a * a, b))

    def b_db(self, t: float | Tensor) -> Any:
        """Return the product ``b b'``; finite at t = 1, where ``b'`` is not."""
        c = self.coeffs(t)
        return -(self.sigma**2) * c.a * c.da

    def _inverse(self, t: Any) -> Inverse:
        a, b, da, _ = self.coeffs(t)
        square = self.sigma**2  # b² + square a² = square, so that w = a' square / b
        return Inverse(b * b / (da * square), a, -a * b / (da * square), b / square)

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        # exp(2 lam) = a² / (sigma² (1 - a²))
        rest = ops.log1p(ops.exp(-2 * lam) / self.sigma**2) / 2
        return 1 - rest / self.total


@dataclass(frozen=True)
class MRS(Solver):
    r"""The sampler of mean-reverting diffusion: exponential steps of order 1 to 3.

    In ``y = x - mu`` they are those of a Gaussian path with a multistep expansion in the half
    log-SNR, ``h = lambda' - lambda``; see :func:`around`. With data predictions D,

    .. math:: y' = \tfrac{b'}{b} y - a' \bigl[(e^{-h} - 1) D - p_2 D_1 + k p_3 D_2\bigr]

    with noise predictions E,

    .. math:: y' = \tfrac{a'}{a} y - b' \bigl[(e^{h} - 1) E + q_2 E_1 + k q_3 E_2\bigr]

    and the stochastic steps draw what the reverse SDE forgets. The first steps have the order that
    their past allows. Exact for data of one point in a single step of data prediction. Flat spaces,
    towards the data only.

    Parameters
    ----------
    order : int, default 2
        1 to 3; stochastic steps 1 or 2 with data, 1 with noise predictions.
    path : Path
    predict : Prediction
        ``Data()``, the stable one at few steps, or ``Noise()``.
    stochastic : bool, default False
    curvature : float, default 2
        Factor k of the second difference: 2 is Taylor's, of third order; the authors' code has 1,
        of second.

    References
    ----------
    Li et al., "MRS: A Fast Sampler for Mean Reverting Diffusion Based on ODE and SDE Solvers" (ICLR
    2025).
    """

    order: int = 2
    path: Path = MeanReverting()
    predict: Prediction = _DATA
    stochastic: bool = False
    curvature: float = 2.0
    nfe = 1
    leaves = ("state", "velocity", "predicted")

    def __post_init__(self) -> None:
        if not isinstance(self.predict, Data | Noise):
            raise ValueError(f"predict must be Data() or Noise(), got {self.predict}.")
        most = 3 if not self.stochastic else 2 if self._of_data else 1
        if not 1 <= self.order <= most:
            raise ValueError(f"order must lie in 1 to {most} here, got {self.order}.")

    @property
    def _of_data(self) -> bool:
        return isinstance(self.predict, Data)

    @property
    def reads(self) -> dict[str, int]:  # type: ignore[override]
        """Past predictions."""
        return {"predicted": self.order - 1} if self.order > 1 else {}

    @property
    def traceable(self) -> bool:  # type: ignore[override]
        """Stochastic steps cannot be compiled."""
        return not self.stochastic

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        if isinstance(start, Tensor) or isinstance(stop, Tensor):
            raise ValueError(f"{self} takes one time for all rows, got times per row.")
        x, v = context.begin(field, x, start)
        read = self.path.data if self._of_data else self.path.noise
        now = read(v, x, start)
        left = context.remember(start, stop, state=x, velocity=v, predicted=now)
        lams = self.path.lam(start), self.path.lam(stop)
        if not all(map(math.isfinite, lams)):
            return combine(first_order(self.path, start, stop), (x, v)), left
        known = context.past(start, stop).get("predicted")[: self.order - 1]
        past = [(t, p) for t, p in known if math.isfinite(self.path.lam(float(t)))]
        weights = self._weights(start, stop, [float(t) for t, _ in past])
        states = [x, now, *(p for _, p in past)]
        fresh = self._fresh(start, stop)
        if fresh:
            if context.noise is None:
                raise ValueError(f"{self} draws noise; expected noise=KeyedNoise(seed, samples).")
            weights, states = [*weights, fresh], [*states, context.noise.like(x)]
        return combine(weights, states), left

    def _fresh(self, start: float, stop: float) -> float:
        if not self.stochastic:
            return 0.0
        h = self.path.lam(stop) - self.path.lam(start)
        b = self.path.coeffs(stop).b
        return b * math.sqrt(-math.expm1(-2 * h) if self._of_data else math.expm1(2 * h))

    def _weights(self, start: float, stop: float, past: Sequence[float]) -> list[float]:
        """Return the weights of the state and of the predictions, newest first."""
        here, there = self.path.coeffs(start), self.path.coeffs(stop)
        lams = [self.path.lam(t) for t in (start, *past)]
        h = self.path.lam(stop) - lams[0]
        # of the state, and of value, first and second difference per step of the prediction
        if self._of_data and not self.stochastic:
            p1 = math.expm1(-h)
            p2 = p1 / h + 1
            of_x, terms = there.b / here.b, (-p1, p2, -(p2 / h - 0.5))
            scale = there.a
        elif self._of_data:
            q = -math.expm1(-2 * h)
            of_x, terms = there.b / here.b * math.exp(-h), (q, 1 - q / (2 * h), 0.0)
            scale = there.a
        else:
            e1 = math.expm1(h)
            q2 = e1 / h - 1
            twice = 2.0 if self.stochastic else 1.0
            of_x, terms = there.a / here.a, (-twice * e1, -q2, -(q2 / h - 0.5))
            scale = there.b
        value, first, second = (scale * term for term in terms)
        steps = [(later - earlier) / h for later, earlier in pairwise(lams)]
        if not steps:
            return [of_x, value]
        if len(steps) == 1:
            return [of_x, value + first / steps[0], -first / steps[0]]
        near, far = steps
        # D1 = s + near/(near+far) (s - s'), D2 = (s - s')/(near+far) of the two slopes s, s'.
        bend = (first * near + self.curvature * second) / (near + far)
        new, old = (first + bend) / near, bend / far
        return [of_x, value + new, -new - old, old]


def around(
    field: VelocityField,
    mu: Tensor,
    plan: Plan,
    *,
    sigma: float = 1.0,
    generator: torch.Generator | None = None,
    noise: KeyedNoise | None = None,
) -> Tensor:
    """Restore samples from around their degraded forms.

    Parameters
    ----------
    field : VelocityField
        Of ``y = x - mu``, on a :class:`MeanReverting` path.
    mu : Tensor, shape (b, *event)
        The degraded samples.
    plan : Plan
        :class:`MRS`, or any solver of the path.
    sigma : float, default 1
        The path's; the start is ``mu + sigma z``.
    generator : torch.Generator, optional
        Of the start.
    noise : KeyedNoise, optional
        For stochastic solvers.
    """
    z = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return mu + integrate(field, sigma * z, plan, noise=noise)
