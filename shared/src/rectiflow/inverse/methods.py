"""Ways to solve an inverse problem with one flow, as values, and their comparison."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from rectiflow.fields import VelocityField, counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse.consistency import DataConsistency, Projection, Replacement, noised
from rectiflow.inverse.measurement import Measurement
from rectiflow.inverse.operators import LinearOperator, Mask
from rectiflow.inverse.posterior import posterior_field
from rectiflow.inverse.red_diff import Adam, red_diff
from rectiflow.inverse.total_variation import TotalVariation
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import Ancestral, Euler, Solver
from rectiflow.steering.cycles import cycles
from rectiflow.steering.steer import Steer

_EULER = Euler()


class Method(ABC):
    """A way to get samples that fit readings, within a number of evaluations per sample."""

    def fits(self, measurement: Measurement) -> bool:
        """Tell whether it can be used on a measurement: here, on any linear one."""
        return measurement.is_linear

    @abstractmethod
    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return samples from noise ``x0``; ``noise`` is for methods that draw more of it."""


@dataclass(frozen=True)
class FlowChef(Method):
    """:class:`~rectiflow.inverse.DataConsistency` on Euler's method; any operator.

    Parameters
    ----------
    eta, inner, until
        As there.
    solver : Solver
        Any whose moves can be steered.
    """

    eta: float = 1.0
    inner: int = 1
    until: float = 1.0
    solver: Solver = _EULER

    def fits(self, measurement: Measurement) -> bool:
        """Any."""
        return True

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        pull: Any = measurement
        correct = DataConsistency(pull, self.eta, self.inner, self.until)
        return _steered(field, x0, evaluations, Steer(self.solver, correct))


@dataclass(frozen=True)
class Projected(Method):
    """:class:`~rectiflow.inverse.Projection` on Euler's method.

    Parameters
    ----------
    solver : Solver
        Any whose moves can be steered.
    """

    solver: Solver = _EULER

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        correct: Any = Projection(measurement)
        return _steered(field, x0, evaluations, Steer(self.solver, correct))


@dataclass(frozen=True)
class Posterior(Method):
    """:func:`~rectiflow.inverse.posterior_field`: half as many steps, each differentiated.

    Parameters
    ----------
    weight : float, default 1
        Of the guidance.
    solver : Solver
        Of one evaluation per step.
    """

    weight: float = 1.0
    solver: Solver = _EULER

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        guided = posterior_field(field, measurement, weight=self.weight)
        # A backward pass counts as an evaluation; the first step, at pure noise, has none.
        return integrate(guided, x0, plan(uniform((evaluations + 1) // 2), self.solver))


@dataclass(frozen=True)
class RedDiff(Method):
    """:func:`~rectiflow.inverse.red_diff` from the pseudo-inverse.

    Parameters
    ----------
    lam : float, default 0.25
        Weight of the prior.
    rate : float, default 0.1
        Of Adam.
    """

    lam: float = 0.25
    rate: float = 0.1

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        operator = measurement.operator
        assert isinstance(operator, LinearOperator)
        start = operator.pinv(measurement.y.to(x0)).expand_as(x0)
        times = uniform(evaluations + 1)[1:-1]
        told = {"noise": _draws(noise, x0), "lam": self.lam, "descent": Adam(self.rate)}
        return red_diff(field, measurement, start, times, **told)  # type: ignore[arg-type]


class _Masked(Method):
    def fits(self, measurement: Measurement) -> bool:
        """Masks of readings without noise."""
        return isinstance(measurement.operator, Mask) and measurement.sigma == 0


@dataclass(frozen=True)
class Replaced(_Masked):
    """Replace what is known after each step by its noised form."""

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        hook = _replacement(measurement, x0)
        return integrate(field, x0, plan(uniform(evaluations), Euler()), hook=hook)


@dataclass(frozen=True)
class Cyclic(_Masked):
    """Replace, and go back and forth between two noise levels (COW, RePaint).

    Parameters
    ----------
    turn : tuple of float, default (0.3, 0.5)
        Noisier and cleaner time of the cycles.
    share : float, default 0.5
        Of the evaluations, spent in cycles.
    """

    turn: tuple[float, float] = (0.3, 0.5)
    share: float = 0.5

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        low, high = self.turn
        whole = max(2, round(evaluations * (1 - self.share)))
        before = max(1, round(whole * high))
        after = max(1, whole - before)
        steps = max(1, round(whole * (high - low)))
        count = max(0, (evaluations - before - after) // steps)
        after = evaluations - before - count * steps
        moves = plan(uniform(before, t_max=high), Euler())
        if count:
            up = uniform(steps, t_min=low, t_max=high)
            moves = moves + cycles(up, Ancestral(), count)
        moves = moves + plan(uniform(after, t_min=high), Euler())
        return integrate(field, x0, moves, noise=noise, hook=_replacement(measurement, x0))


@dataclass(frozen=True)
class AlongStack(Method):
    """:class:`~rectiflow.inverse.TotalVariation` between the rows of the batch (DiffusionMBIR).

    Parameters
    ----------
    lam, rho, inner
        As there.
    """

    lam: float = 0.04
    rho: float = 10.0
    inner: int = 1

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the samples; see :class:`Method`."""
        between = TotalVariation(measurement, 0, self.lam, self.rho, self.inner)
        return _steered(field, x0, evaluations, Steer(_EULER, between.correction()))


METHODS: tuple[Method, ...] = (
    FlowChef(),
    Projected(),
    Posterior(),
    RedDiff(),
    Replaced(),
    Cyclic(),
)
"""What is compared if nothing else is said: all whose rows are independent samples."""


@dataclass(frozen=True, slots=True)
class Solved:
    """One method on one problem.

    Attributes
    ----------
    method : Method
    evaluations : int
        Of the field; backward passes count too, and are not among these.
    misfit : float
        Root mean square of the residual.
    error : float or None
        Root-mean-square distance to the truth.
    seconds : float
    samples : Tensor
    """

    method: Method
    evaluations: int
    misfit: float
    error: float | None
    seconds: float
    samples: Tensor

    def row(self) -> dict[str, object]:
        """Return what fits into a table."""
        told = {f.name: getattr(self, f.name) for f in fields(self)[1:-1]}
        return {"method": repr(self.method), **told}


def compare_methods(
    field: VelocityField,
    measurement: Measurement,
    x0: Tensor,
    evaluations: int,
    *,
    methods: Sequence[Method] = METHODS,
    truth: Tensor | None = None,
    seed: int = 0,
) -> list[Solved]:
    """Run all methods that fit a problem at equal cost.

    Parameters
    ----------
    field : VelocityField
        The prior, on the straight path from unit noise.
    measurement : Measurement
    x0 : Tensor, shape (b, *event)
        Noise; each row is a sample.
    evaluations : int
        For each row; a backward pass counts as one.
    methods : sequence of Method
    truth : Tensor, optional
    seed : int, default 0
        Of the noise drawn on the way.

    Returns
    -------
    list of Solved
        The smallest error, or misfit without a truth, first.
    """
    if evaluations < 2:
        raise ValueError(f"evaluations must be at least 2, got {evaluations}.")
    rows = []
    for method in methods:
        if not method.fits(measurement):
            continue
        calls, began = counted(field), time.perf_counter()
        found = method(calls, measurement, x0, evaluations, KeyedNoise(seed, range(len(x0))))
        seconds = time.perf_counter() - began
        misfit = measurement.misfit(found).square().mean().sqrt().item()
        error = None if truth is None else (found - truth).square().mean().sqrt().item()
        rows.append(Solved(method, calls.calls, misfit, error, seconds, found))
    return sorted(rows, key=lambda row: row.misfit if row.error is None else row.error)


def _steered(field: VelocityField, x0: Tensor, evaluations: int, solver: Solver) -> Tensor:
    for steps in range(evaluations, 0, -1):
        moves = plan(uniform(steps), solver)
        if moves.nfe <= evaluations:
            return integrate(field, x0, moves)
    raise ValueError(f"{solver} needs more than {evaluations} evaluations.")


def _replacement(measurement: Measurement, x0: Tensor) -> Replacement:
    assert isinstance(measurement.operator, Mask)
    known = measurement.y.to(x0).expand_as(x0)
    return Replacement(measurement.operator.keep, noised(known, x0))


def _draws(noise: KeyedNoise, like: Tensor) -> Iterator[Tensor]:
    step = 0
    while True:
        yield noise.later(step).like(like)
        step += 1
