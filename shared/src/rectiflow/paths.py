"""Paths from noise to data, and the algebra between what networks predict on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from rectiflow.fields import VelocityField
from rectiflow.sources import Normal
from rectiflow.states import State, expand_time, map_state

Time = TypeVar("Time", float, Tensor)


class Coefficients(NamedTuple):
    """Coefficients of ``x_t = a x1 + b x0`` and their time derivatives; all of the form of t."""

    a: Any
    b: Any
    da: Any
    db: Any


class Prediction(StrEnum):
    """What a network may be trained to say about ``x_t``."""

    VELOCITY = "velocity"  # E[dx_t/dt | x_t]
    DATA = "data"  # E[x1 | x_t]
    NOISE = "noise"  # E[x0 | x_t]
    SCORE = "score"  # grad log p_t(x_t)


class Path(ABC):
    """An affine path ``x_t = a(t) x1 + b(t) x0`` from noise (t = 0) to data (t = 1).

    ``a`` grows to 1 and ``b`` falls from (about) 1. A time is a python float, for which everything
    is computed in float64 without tensors, or a tensor: 0-dimensional, or ``(b,)`` with one time
    per sample.

    A prediction is a linear function of another one and of ``x_t``. The conversions are regular
    wherever a finite answer exists and raise ``ValueError`` elsewhere, for example for the score
    at t = 1. The velocity determines the data and the noise prediction on all of ``[0, 1]`` (on
    :class:`Linear`), which is why velocities are what is stored and passed.
    """

    def coeffs(self, t: float | Tensor) -> Coefficients:
        """Return ``(a, b, a', b')`` at ``t``.

        ``b'`` is ``-inf`` where the path has a vertical tangent (variance-preserving paths at 1).

        Raises
        ------
        ValueError
            When a number ``t`` lies outside ``[0, 1]``.
        """
        if isinstance(t, Tensor):
            return self._coeffs(t, torch)
        if not 0 <= t <= 1:
            raise ValueError(f"time outside the path, got t={t}; expected 0 (noise) to 1 (data)")
        return self._coeffs(float(t), math)

    @abstractmethod
    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        """Compute the coefficients with the functions of ``ops``: ``math`` or ``torch``."""

    def b_db(self, t: float | Tensor) -> Any:
        """Return the product ``b b'``, half the rate of the noise variance; finite at t = 1."""
        c = self.coeffs(t)
        return c.b * c.db

    def interpolate(self, x0: State, x1: State, t: float | Tensor) -> tuple[State, State]:
        """Return the point ``x_t`` and its velocity ``a' x1 + b' x0``.

        Parameters
        ----------
        x0, x1 : State, shape (b, *event)
            Noise and data.
        t : float or Tensor, shape () or (b,)

        Raises
        ------
        ValueError
            When the velocity is infinite (variance-preserving paths at t = 1).
        """
        a, b, da, db = self.coeffs(t)
        return _mix(a, x1, b, x0), _mix(da, x1, db, x0)

    def lam(self, t: Time) -> Time:
        """Return the half log-SNR ``log(a / b)``: -inf where a is 0, inf where b is 0."""
        c = self.coeffs(t)
        return _log(c.a) - _log(c.b)

    def t_of_lam(self, lam: Time) -> Time:
        """Return the time at which the half log-SNR is ``lam``; inverse of :meth:`lam`.

        Raises
        ------
        ValueError
            When the path never has this noise level.
        """
        is_tensor = isinstance(lam, Tensor)
        t: Any = self._t_of_lam(lam, torch if is_tensor else math)
        slack = 64 * torch.finfo(lam.dtype).eps if isinstance(lam, Tensor) else 1e-12
        inside = (t >= -slack) & (t <= 1 + slack)
        if not (_all_true(inside) if is_tensor else inside):
            ends = f"[{self.lam(0.0):.6g}, {self.lam(1.0):.6g}]"
            raise ValueError(
                f"{type(self).__name__} never has half log-SNR {_brief(lam)}; expected values in "
                f"{ends}. Start and end the time grid inside the range that both paths share."
            )
        return t.clamp(0, 1) if is_tensor else min(max(t, 0.0), 1.0)

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

    def snr_inverse(self, r: Time) -> Time:
        """Return the time at which ``a / b`` is ``r``, in ``[0, inf]``."""
        return self.t_of_lam(_log(r))

    def data(self, v: State, x: State, t: float | Tensor) -> State:
        """Return ``E[x1 | x_t] = (b v - b' x) / (a' b - b' a)``."""
        return self.convert(v, x, t, given=Prediction.VELOCITY, wanted=Prediction.DATA)

    def noise(self, v: State, x: State, t: float | Tensor) -> State:
        """Return ``E[x0 | x_t] = (a' x - a v) / (a' b - b' a)``."""
        return self.convert(v, x, t, given=Prediction.VELOCITY, wanted=Prediction.NOISE)

    def score(
        self, v: State, x: State, t: float | Tensor, *, source: Normal | None = None
    ) -> State:
        """Return ``grad log p_t(x) = -(E[x0 | x_t] - mean) / (b scale²)`` for a normal source."""
        return self.convert(
            v, x, t, given=Prediction.VELOCITY, wanted=Prediction.SCORE, source=source
        )

    def velocity(
        self,
        x: State,
        t: float | Tensor,
        *,
        data: State | None = None,
        noise: State | None = None,
        score: State | None = None,
        source: Normal | None = None,
    ) -> State:
        """Return the velocity that belongs to exactly one other prediction.

        Raises
        ------
        ValueError
            When not exactly one of data, noise and score is given, or at a time where it does not
            determine the velocity (data at t = 1; noise and score at t = 0).
        """
        named = {Prediction.DATA: data, Prediction.NOISE: noise, Prediction.SCORE: score}
        given = {kind: value for kind, value in named.items() if value is not None}
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(
                f"one prediction is needed, got {found}; expected data, noise or score"
            )
        ((kind, value),) = given.items()
        return self.convert(value, x, t, given=kind, wanted=Prediction.VELOCITY, source=source)

    def convert(
        self,
        value: State,
        x: State,
        t: float | Tensor,
        *,
        given: Prediction,
        wanted: Prediction,
        source: Normal | None = None,
    ) -> State:
        r"""Turn one prediction at ``x_t = x`` into another.

        With :math:`w = a' b - b' a`, data D and noise E:
        :math:`x = a D + b E`, :math:`v = a' D + b' E = (w D + b' x)/b = (a' x - w E)/a`.

        Parameters
        ----------
        value, x : State, shape (b, *event)
            The prediction and the point where it was made.
        t : float or Tensor, shape () or (b,)
        given, wanted : Prediction
            What ``value`` is, and what to return.
        source : Normal, optional
            Law of x0, which the score depends on; standard normal by default.

        Returns
        -------
        State

        Raises
        ------
        ValueError
            Where the answer is infinite or not determined.
        """
        # Conditional, because a compiler cannot trace through the making of an enum member.
        given = given if isinstance(given, Prediction) else Prediction(given)
        wanted = wanted if isinstance(wanted, Prediction) else Prediction(wanted)
        if given is wanted:
            return value
        asked = f"{given} does not determine a finite {wanted}"
        law, b = source or Normal(), self.coeffs(t).b
        if given is Prediction.SCORE:
            value = map_state(lambda s: law.at_score(expand_time(b, s) * s), value)
            given = Prediction.NOISE
        target = Prediction.NOISE if wanted is Prediction.SCORE else wanted
        if given is not target:
            of_value, of_x = self._factors(t, given, target)
            value = _mix(_finite(of_value, asked, t), value, _finite(of_x, asked, t), x)
        if wanted is Prediction.SCORE:
            rate = _finite(_divide(1.0, b), asked, t)
            return map_state(lambda e: expand_time(rate, e) * law.score(e), value)
        return value

    def _factors(self, t: float | Tensor, given: Prediction, wanted: Prediction) -> tuple[Any, Any]:
        """Factors of the given prediction and of x in the wanted one; neither is a score."""
        if given is Prediction.VELOCITY:
            return self._unmix(t, wanted)
        a, b, da, db = self.coeffs(t)
        from_data = given is Prediction.DATA
        if wanted is not Prediction.VELOCITY:
            part, rest = (a, b) if from_data else (b, a)
            return -_divide(part, rest), _divide(1.0, rest)
        w = da * b - db * a
        return (_divide(w, b), _divide(db, b)) if from_data else (-_divide(w, a), _divide(da, a))

    def _unmix(self, t: float | Tensor, wanted: Prediction) -> tuple[Any, Any]:
        """Coefficients of v and x in the data or noise prediction."""
        a, b, da, db = self.coeffs(t)
        w = da * b - db * a
        if wanted is Prediction.DATA:
            return _divide(b, w), -_divide(db, w)
        return -_divide(a, w), _divide(da, w)


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

    def _unmix(self, t: float | Tensor, wanted: Prediction) -> tuple[Any, Any]:
        # a + b = 1 gives w = a', and a / a' = t / n stays regular at t = 0 where a' vanishes.
        c = self.coeffs(t)
        return (_divide(c.b, c.da) if wanted is Prediction.DATA else -t / self.n), _full(t, 1.0)


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

    def interpolate(self, x0: State, x1: State, t: float | Tensor) -> tuple[State, State]:
        db = self.coeffs(t).db
        if not _is_finite(db):
            raise ValueError(
                f"the velocity of {type(self).__name__} is infinite at t = 1, got t={_brief(t)}; "
                "expected t < 1. Draw times from Uniform(0, 1 - 1e-5) or another bounded density."
            )
        return super().interpolate(x0, x1, t)

    def _unmix(self, t: float | Tensor, wanted: Prediction) -> tuple[Any, Any]:
        a, b, da, _ = self.coeffs(t)
        return (b * b / da, a) if wanted is Prediction.DATA else (-a * b / da, b)


@dataclass(frozen=True)
class LinearVP(_UnitVariance):
    """``a = t``, ``b = sqrt(1 - t²)``."""

    def _coeffs(self, t: Any, ops: ModuleType) -> Coefficients:
        b = ops.sqrt((1 - t) * (1 + t))
        return Coefficients(t, b, _full(t, 1.0), -_divide(t, b))

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
        return Coefficients(a, b, a * rate / 2, -_divide(a * a * rate / 2, b))

    def _t_of_lam(self, lam: Any, ops: ModuleType) -> Any:
        num, den = _ratio(lam, ops)
        smaller = num * den  # one of the two is 1
        total = 2 * _positive(-lam) + ops.log1p(smaller * smaller)
        spread = self.beta_max - self.beta_min
        root = ops.sqrt(self.beta_min**2 + 2 * spread * total)
        return 1 - 2 * total / (self.beta_min + root)


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


def reparametrise(field: VelocityField, path_a: Path, path_b: Path) -> VelocityField:
    r"""Turn a velocity field of one path into that of another, without training.

    The time of equal noise level and the scale :math:`c = (a_A + b_A)/(a_B + b_B)` carry the point
    to ``path_a``; data and noise predictions are the same on both, and give the velocity on
    ``path_b``.

    Parameters
    ----------
    field : VelocityField
        Velocity on ``path_a``.
    path_a, path_b : Path
        The path of the field, and the wanted one.

    Returns
    -------
    VelocityField
        Velocity on ``path_b``. It raises ``ValueError`` at noise levels that ``path_a`` never has:
        a variance-preserving path has none as noisy as the straight path at t = 0.
    """

    def converted(x: State, t: float | Tensor) -> State:
        to = path_b.coeffs(t)
        s = path_a.t_of_lam(path_b.lam(t))  # type: ignore[type-var]
        at = path_a.coeffs(s)
        scale = (at.a + at.b) / (to.a + to.b)
        x_a = map_state(lambda p: expand_time(scale, p) * p, x)
        v_a = field(x_a, s)
        data, noise = path_a.data(v_a, x_a, s), path_a.noise(v_a, x_a, s)
        db = _finite(to.db, f"{path_b!r} has no finite velocity", t)
        return _mix(to.da, data, db, noise)

    return converted


def _mix(p: Any, x: State, q: Any, y: State) -> State:
    """Return ``p x + q y`` for coefficients of the form of a time."""
    return map_state(lambda a, b: expand_time(p, a) * a + expand_time(q, b) * b, x, y)


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
    if x < 0:
        raise ValueError(f"the signal-to-noise ratio must not be negative, got {x}")
    return math.log(x) if x > 0 else -math.inf


def _divide(x: Any, y: Any) -> Any:
    """Divide as tensors do: ``x / 0`` is infinite or NaN also for numbers."""
    if isinstance(y, Tensor) or y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x)


def _all_true(flags: Tensor) -> bool:
    # Reading a value would break a compiled graph: there the check is left out.
    return torch.compiler.is_compiling() or bool(flags.all())


def _is_finite(value: Any) -> bool:
    return _all_true(value.isfinite()) if isinstance(value, Tensor) else math.isfinite(value)


def _finite(value: Any, asked: str, t: float | Tensor) -> Any:
    """Return a factor of a conversion, or say that there is none at this time."""
    if _is_finite(value):
        return value
    raise ValueError(
        f"{asked} at this time, got t={_brief(t)}; expected a time where both noise and data are "
        "mixed in. Keep the velocity, from which data and noise follow at every time, or stay off "
        "the ends of the path."
    )


def _brief(t: float | Tensor) -> str:
    """Print a time for a message, at most a few values."""
    if isinstance(t, Tensor):
        values = t.detach().flatten()
        shown = ", ".join(f"{value:.6g}" for value in values[:4].tolist())
        return f"[{shown}{', ...' if len(values) > 4 else ''}]" if t.ndim else shown
    return f"{t:.6g}"


def _with_rate(
    fn: Callable[[Tensor], Tensor], rate: Callable[[Tensor], Tensor] | None, t: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate a function of time and its derivative."""
    if rate is not None:
        return fn(t), rate(t)
    value, tangent = torch.func.jvp(fn, (t,), (torch.ones_like(t),))
    return value, tangent
