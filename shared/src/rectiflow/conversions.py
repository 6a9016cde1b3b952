"""The algebra between velocity, data, noise and score on a path ``x_t = a x1 + b x0``."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rectiflow.predictions import Bridge, Point
from rectiflow.sources import NORMAL, Normal
from rectiflow.states import State, combine, expand_time, map_state

if TYPE_CHECKING:
    import torch

    from rectiflow.fields import VelocityField
    from rectiflow.paths import Path


class Coefficients(NamedTuple):
    """Coefficients of ``x_t = a x1 + b x0`` and their time derivatives; all of the form of t."""

    a: Any
    b: Any
    da: Any
    db: Any


class Inverse(NamedTuple):
    """Coefficients of ``D = data_v v + data_x x`` and ``E = noise_v v + noise_x x``."""

    data_v: Any
    data_x: Any
    noise_v: Any
    noise_x: Any


class Conversions(Bridge):
    """What follows from the coefficients of a path.

    The velocity determines data and noise on all of ``[0, 1]`` (on the straight path), which is
    why velocities are what is stored and passed; every other direction is singular at one end.
    A time that is a number is checked, and an answer that is not finite is a ``ValueError``. A
    tensor of times is never read, since that would wait for the device: rows without a finite
    answer are infinite or NaN.
    """

    @abstractmethod
    def coeffs(self, t: float | Tensor) -> Coefficients:
        """Return ``(a, b, a', b')`` at ``t``."""

    @abstractmethod
    def inverse(self, t: float | Tensor) -> Inverse:
        """Return how data and noise follow from velocity and point at ``t``."""

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
            Where the velocity is infinite (variance-preserving paths at t = 1).
        """
        a, b, da, db = self.coeffs(t)
        db = finite(db, f"the velocity of {self!r} is infinite", t)
        return combine((a, b), (x1, x0)), combine((da, db), (x1, x0))

    def points(
        self, x0: State, x1: State, t: Tensor, generator: torch.Generator | None
    ) -> tuple[Point, ...]:
        """Return the one point at ``t``; nothing is drawn."""
        x, velocity = self.interpolate(x0, x1, t)
        return (Point(x, velocity, x1, x0, self.coeffs(t).b, t),)

    def data(self, v: State, x: State, t: float | Tensor) -> State:
        """Return ``E[x1 | x_t] = (b v - b' x) / (a' b - b' a)``."""
        of_v, of_x, _, _ = self.inverse(t)
        asked = "the velocity does not determine a finite data prediction"
        return combine((finite(of_x, asked, t), finite(of_v, asked, t)), (x, v))

    def noise(self, v: State, x: State, t: float | Tensor) -> State:
        """Return ``E[x0 | x_t] = (a' x - a v) / (a' b - b' a)``."""
        _, _, of_v, of_x = self.inverse(t)
        asked = "the velocity does not determine a finite noise prediction"
        return combine((finite(of_x, asked, t), finite(of_v, asked, t)), (x, v))

    def score(self, v: State, x: State, t: float | Tensor, source: Normal = NORMAL) -> State:
        """Return ``grad log p_t(x) = -(E[x0 | x_t] - mean) / (b scale²)`` for a normal source."""
        asked = "the velocity does not determine a finite score"
        rate = finite(divide(1.0, self.coeffs(t).b), asked, t)
        return map_state(lambda e: expand_time(rate, e) * source.score(e), self.noise(v, x, t))

    def from_data(self, data: State, x: State, t: float | Tensor) -> State:
        """Return the velocity ``(w D + b' x) / b`` with ``w = a' b - b' a``."""
        of_v, of_x, _, _ = self.inverse(t)
        return _solve(data, x, of_v, of_x, "data", t)

    def from_noise(self, noise: State, x: State, t: float | Tensor) -> State:
        """Return the velocity ``(a' x - w E) / a`` with ``w = a' b - b' a``."""
        _, _, of_v, of_x = self.inverse(t)
        return _solve(noise, x, of_v, of_x, "noise", t)

    def from_score(
        self, score: State, x: State, t: float | Tensor, source: Normal = NORMAL
    ) -> State:
        """Return the velocity of the noise that has this score."""
        b = self.coeffs(t).b
        noise = map_state(lambda s: source.at_score(expand_time(b, s) * s), score)
        return self.from_noise(noise, x, t)


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
        db = finite(to.db, f"{path_b!r} has no finite velocity", t)
        return combine((to.da, db), (data, noise))

    return converted


def divide(x: Any, y: Any) -> Any:
    """Divide as tensors do: ``x / 0`` is infinite or NaN also for numbers."""
    if isinstance(y, Tensor) or y != 0:
        return x / y
    return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x)


def finite(value: Any, asked: str, t: float | Tensor) -> Any:
    """Return a factor of a conversion, or say of a number that there is none at this time."""
    if isinstance(value, Tensor) or math.isfinite(value):
        return value
    raise ValueError(
        f"{asked} at this time, got t={t:.6g}; expected a time where both noise and data are "
        "mixed in. Keep the velocity, from which data and noise follow at every time, or stay off "
        "the ends of the path."
    )


def _solve(value: State, x: State, of_v: Any, of_x: Any, given: str, t: float | Tensor) -> State:
    """Return v from ``value = of_v v + of_x x``."""
    asked = f"{given} does not determine a finite velocity"
    rate = finite(divide(1.0, of_v), asked, t)
    return combine((rate, finite(-divide(of_x, of_v), asked, t)), (value, x))
