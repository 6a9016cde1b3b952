"""Paths from noise to data: their coefficients."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from rectiflow.conversions import Coefficients, Conversions, Inverse, divide

Time = TypeVar("Time", float, Tensor)


class Path(Conversions):
    """An affine path ``x_t = a(t) x1 + b(t) x0`` from noise (t = 0) to data (t = 1).

    ``a`` grows to 1 and ``b`` falls from (about) 1. A time is a python float, for which everything
    is computed in float64 without tensors and remembered, or a tensor: 0-dimensional, or ``(b,)``
    with one time per sample. Subclasses are frozen dataclasses that give :meth:`_coeffs`.
    """

    def coeffs(self, t: float | Tensor) -> Coefficients:
        """Return ``(a, b, a', b')`` at ``t``.

        ``b'`` is ``-inf`` where the path has a vertical tangent (variance-preserving paths at 1).

        Raises
        ------
        ValueError
            When a number ``t`` lies outside ``[0, 1]``.
        """
        return self._coeffs(t, torch) if isinstance(t, Tensor) else _coeffs_at(self, float(t))

    def inverse(self, t: float | Tensor) -> Inverse:
        """Return how data and noise follow from velocity and point at ``t``."""
        return self._inverse(t) if isinstance(t, Tensor) else _inverse_at(self, float(t))

    @abstractmethod
    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        """Compute the coefficients with the functions of ``ops``: ``math`` or ``torch``."""

    def _inverse(self, t: Any) -> Inverse:
        a, b, da, db = self.coeffs(t)
        w = da * b - db * a
        return Inverse(divide(b, w), -divide(db, w), -divide(a, w), divide(da, w))

    def b_db(self, t: float | Tensor) -> Any:
        """Return the product ``b b'``, half the rate of the noise variance; finite at t = 1."""
        c = self.coeffs(t)
        return c.b * c.db

    def lam(self, t: Time) -> Time:
        """Return the half log-SNR ``log(a / b)``: -inf where a is 0, inf where b is 0."""
        c = self.coeffs(t)
        return _log(c.a) - _log(c.b)

    def t_of_lam(self, lam: Time) -> Time:
        """Return the time at which the half log-SNR is ``lam``; inverse of :meth:`lam`.

        A tensor gets NaN where the path never has the noise level.

        Raises
        ------
        ValueError
            When the path never has the noise level of a number.
        """
        if isinstance(lam, Tensor):
            t = self._t_of_lam(lam, torch)
            slack = 64 * torch.finfo(lam.dtype).eps
            return torch.where((t >= -slack) & (t <= 1 + slack), t.clamp(0, 1), torch.nan)
        t = self._t_of_lam(lam, math)
        if not -1e-12 <= t <= 1 + 1e-12:
            ends = f"[{self.lam(0.0):.6g}, {self.lam(1.0):.6g}]"
            raise ValueError(
                f"{type(self).__name__} never has half log-SNR {lam:.6g}; expected values in "
                f"{ends}. Start and end the time grid inside the range that both paths share."
            )
        return min(max(t, 0.0), 1.0)

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        """Invert a monotone ``lam`` by bisection; named paths have closed forms."""
        if not isinstance(lam, Tensor):
            return self._t_of_lam(torch.tensor(lam, dtype=torch.float64), torch).item()
        low, high = torch.zeros_like(lam).double(), torch.ones_like(lam).double()
        for _ in range(60):
            middle = (low + high) / 2
            below = self.lam(middle) < lam
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ends = self.lam(torch.tensor([0.0, 1.0], dtype=torch.float64, device=lam.device))
        reached = (lam >= ends[0]) & (lam <= ends[1])
        return torch.where(reached, (low + high) / 2, torch.nan).to(lam.dtype)


@dataclass(frozen=True)
class Linear(Path):
    """The straight path ``x_t = t x1 + (1 - t) x0`` of rectified flow (CondOT)."""

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        return Coefficients(t, 1 - t, _full(t, 1.0), _full(t, -1.0))

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        return num / (num + den)


@dataclass(frozen=True)
class Polynomial(Path):
    """``a = t^n``, ``b = 1 - t^n``: the straight path with another clock.

    Parameters
    ----------
    n : float, default 2
        At least 1; 1 is :class:`Linear`.
    """

    n: float = 2.0

    def __post_init__(self) -> None:
        if not self.n >= 1:
            raise ValueError(f"the power of a polynomial path must be at least 1, got n={self.n}")

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        a, da = t**self.n, self.n * t ** (self.n - 1)
        return Coefficients(a, 1 - a, da, -da)

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        return (num / (num + den)) ** (1 / self.n)

    def _inverse(self, t: Any) -> Inverse:
        # a + b = 1 gives w = a', and a / a' = t / n stays regular at t = 0 where a' vanishes.
        c = self.coeffs(t)
        return Inverse(divide(c.b, c.da), 1.0, -t / self.n, 1.0)


@dataclass(frozen=True)
class TargetCFM(Path):
    """``a = t``, ``b = 1 - (1 - sigma_min) t``: ends in a Gaussian of width ``sigma_min``.

    Parameters
    ----------
    sigma_min : float, default 1e-4
        In ``[0, 1)``; 0 is :class:`Linear`.

    References
    ----------
    Lipman et al., "Flow Matching for Generative Modeling" (ICLR 2023), Eq. (22).
    """

    sigma_min: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"sigma_min must be at least 0 and below 1, got {self.sigma_min}")

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        slope = 1 - self.sigma_min
        return Coefficients(t, 1 - t + self.sigma_min * t, _full(t, 1.0), _full(t, -slope))

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        return num / (den + (1 - self.sigma_min) * num)


@dataclass(frozen=True)
class Trigonometric(Path):
    """``a = sin(pi t / 2)``, ``b = cos(pi t / 2)``: the great circle (cosine, GVP) path."""

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        half = math.pi / 2
        a, b = ops.sin(half * t), ops.sin(half * (1 - t))  # the latter is exactly 0 at t = 1
        return Coefficients(a, b, half * b, -half * a)

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        return ops.atan2(*_ratio(lam, ops)) * (2 / math.pi)


class _UnitVariance(Path):
    """Paths with ``a² + b² = 1`` whose b falls to 0 with a vertical tangent.

    There ``b' = -a a' / b`` is infinite at t = 1, but ``b b' = -a a'`` and ``w = a' / b`` give
    conversions from the velocity without it: ``D = (b²/a') v + a x``, ``E = b x - (a b/a') v``.
    """

    def b_db(self, t: float | Tensor) -> Any:
        c = self.coeffs(t)
        return -c.a * c.da

    def _inverse(self, t: Any) -> Inverse:
        a, b, da, _ = self.coeffs(t)
        return Inverse(b * b / da, a, -a * b / da, b)


@dataclass(frozen=True)
class LinearVP(_UnitVariance):
    """``a = t``, ``b = sqrt(1 - t²)``."""

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        b = ops.sqrt((1 - t) * (1 + t))
        return Coefficients(t, b, _full(t, 1.0), -divide(t, b))

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        return num / ops.sqrt(num * num + den * den)


@dataclass(frozen=True)
class VariancePreserving(_UnitVariance):
    """The path of variance-preserving diffusion, in our time direction.

    ``a = exp(-T/2)``, ``b = sqrt(1 - exp(-T))`` with
    ``T = (1-t)² (beta_max - beta_min)/2 + (1-t) beta_min``; ``a(0)`` is small but not zero.

    Parameters
    ----------
    beta_min, beta_max : float, default 0.1 and 20
        Noise rates at the data and at the noise end.

    References
    ----------
    Song et al., "Score-Based Generative Modeling through SDEs" (ICLR 2021), Appendix B.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"noise rates must grow, got beta_min={self.beta_min}, beta_max={self.beta_max}; "
                "expected 0 < beta_min <= beta_max"
            )

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        s, spread = 1 - t, self.beta_max - self.beta_min
        total = s * s * spread / 2 + s * self.beta_min
        rate = s * spread + self.beta_min  # -dT/dt
        a = ops.exp(-total / 2)
        b = ops.sqrt(-ops.expm1(-total))
        return Coefficients(a, b, a * rate / 2, -divide(a * a * rate / 2, b))

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        smaller = num * den  # one of the two is 1
        total = 2 * _positive(-lam) + ops.log1p(smaller * smaller)
        spread = self.beta_max - self.beta_min
        root = ops.sqrt(self.beta_min**2 + 2 * spread * total)
        return 1 - 2 * total / (self.beta_min + root)


@dataclass(frozen=True)
class SubVariancePreserving(VariancePreserving):
    """The path of sub-VP diffusion: the signal of :class:`VariancePreserving`, its noise squared.

    ``a = exp(-T/2)`` and ``b = 1 - exp(-T)``, which falls to 0 without a vertical tangent.

    References
    ----------
    Song et al., "Score-Based Generative Modeling through SDEs" (ICLR 2021), section 3.4.
    """

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        a, b, da, _ = super()._coeffs(t, ops)
        return Coefficients(a, b * b, da, -2 * a * da)

    def b_db(self, t: float | Tensor) -> Any:
        """Return the product ``b b'``."""
        return Path.b_db(self, t)

    def _inverse(self, t: Any) -> Inverse:
        return Path._inverse(self, t)

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        # a / (1 - a²) = r is a quadratic in a, solved without cancellation; the rest is VP's.
        num, den = _ratio(lam, ops)
        a = 2 * num / (den + ops.sqrt(den * den + 4 * num * num))
        return VariancePreserving._t_of_lam(self, _log(divide(a, ops.sqrt((1 - a) * (1 + a)))), ops)


@dataclass(frozen=True)
class Affine(Path):
    """A path from two functions of time.

    Parameters
    ----------
    a, b : callable
        Map a tensor of times to a tensor of the same shape; ``a / b`` must grow with t.
    da, db : callable, optional
        Their derivatives; by forward-mode differentiation when not given.

    Examples
    --------
    >>> import torch
    >>> path = Affine(lambda t: t**3, lambda t: 1 - t**3)
    >>> path.coeffs(0.5)
    Coefficients(a=0.125, b=0.875, da=0.75, db=-0.75)
    """

    a: Callable[[Tensor], Tensor]
    b: Callable[[Tensor], Tensor]
    da: Callable[[Tensor], Tensor] | None = None
    db: Callable[[Tensor], Tensor] | None = None

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        times = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        a, da = _with_rate(self.a, self.da, times)
        b, db = _with_rate(self.b, self.db, times)
        if isinstance(t, Tensor):
            return Coefficients(a, b, da, db)
        return Coefficients(a.item(), b.item(), da.item(), db.item())


@lru_cache(maxsize=4096)
def _coeffs_at(path: Path, t: float) -> Coefficients:
    if not 0 <= t <= 1:
        raise ValueError(f"time outside the path, got t={t}; expected 0 (noise) to 1 (data)")
    return path._coeffs(t, math)


@lru_cache(maxsize=4096)
def _inverse_at(path: Path, t: float) -> Inverse:
    return path._inverse(t)


def _full(t: Any, value: float) -> Any:
    return torch.full_like(t, value) if isinstance(t, Tensor) else value


def _positive(x: Any) -> Any:
    return x.clamp(min=0) if isinstance(x, Tensor) else max(x, 0.0)


def _ratio(lam: Any, ops: ModuleType) -> tuple[Any, Any]:
    """Return numerator and denominator of ``exp(lam)``, the larger being 1: never overflows."""
    return ops.exp(-_positive(-lam)), ops.exp(-_positive(lam))


def _log(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.log()
    return math.log(x) if x > 0 else -math.inf


def _with_rate(
    fn: Callable[[Tensor], Tensor], rate: Callable[[Tensor], Tensor] | None, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate a function of time and its derivative."""
    if rate is not None:
        return fn(t), rate(t)
    value, tangent = torch.func.jvp(fn, (t,), (torch.ones_like(t),))
    return value, tangent
