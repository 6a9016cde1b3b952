"""Search at inference: many candidates and a reward, at a cost that is told beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rectiflow.fields import VelocityField, counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.paths import Linear
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.solvers import Ancestral, Euler, Solver
from rectiflow.solvers.context import Correction, Time
from rectiflow.states import State, leaves, map_state
from rectiflow.steering.steer import Steer

Reward = Callable[[State], Tensor]
"""``reward(samples) -> (n,)``: more is better. Nothing is differentiated."""

Choose = Callable[[int, Tensor], Tensor | None]
"""``choose(move, values)``: which rows go on, or None for all as they are."""

_LINEAR = Linear()
_ANCESTRAL = Ancestral()


class Strategy(ABC):
    """How candidates are chosen among; a value."""

    @abstractmethod
    def begin(self, count: int, generator: torch.Generator) -> Choose:
        """Return what chooses in one run; at the end it is called once more, with move -1."""

    @property
    def looks(self) -> bool:
        """Whether it asks for values on the way."""
        return True


@dataclass(frozen=True)
class BestOfN(Strategy):
    """Let all run, and keep the best."""

    def begin(self, count: int, generator: torch.Generator) -> Choose:
        """Choose at the end alone."""
        return lambda move, values: values.argmax()[None] if move < 0 else None

    @property
    def looks(self) -> bool:
        """It does not."""
        return False


@dataclass(frozen=True)
class Beam(Strategy):
    """Every few moves keep some, and let each go on in as many ways as there is room for.

    The solver must draw noise, or copies stay copies.

    Parameters
    ----------
    keep : int
        How many survive.
    every : int, default 1
        Moves between choices.
    """

    keep: int
    every: int = 1

    def begin(self, count: int, generator: torch.Generator) -> Choose:
        """Choose the best, and copy them."""
        if not 1 <= self.keep <= count or self.every < 1:
            raise ValueError(
                f"keep must lie in 1 to the number of candidates, {count}, and every be positive, "
                f"got {self.keep} and {self.every}."
            )

        def choose(move: int, values: Tensor) -> Tensor | None:
            if move < 0:
                return values.argmax()[None]
            if move == 0 or move % self.every:
                return None
            best = values.topk(self.keep).indices
            return best.repeat(-(-count // self.keep))[:count]

        return choose


@dataclass(frozen=True)
class Particles(Strategy):
    r"""Sequential Monte Carlo: the candidates become samples of ``p(x) exp(reward / temperature)``.

    Weights grow by the change of the value from move to move; when few carry most of it, rows are
    drawn anew in proportion (systematic resampling). The result is the whole population, exact for
    many particles and moves, however poor the predictions on the way.

    Parameters
    ----------
    temperature : float, default 1
    threshold : float, default 0.5
        Draw anew when the effective number of particles is below this share.

    References
    ----------
    Wu et al., "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models"
    (NeurIPS 2023). Singhal et al., "A General Framework for Inference-time Scaling and Steering of
    Diffusion Models" (ICML 2025).
    """

    temperature: float = 1.0
    threshold: float = 0.5

    def begin(self, count: int, generator: torch.Generator) -> Choose:
        """Choose in proportion to the weights."""
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        weight = torch.zeros(count, dtype=torch.float64)
        last = torch.zeros(count, dtype=torch.float64)

        def choose(move: int, values: Tensor) -> Tensor | None:
            nonlocal weight, last
            now = values.double().cpu() / self.temperature
            weight, last = weight + now - last, now
            share = weight.softmax(0)
            if move >= 0 and 1 / share.square().sum() >= self.threshold * count:
                return None
            # One uniform number, and count points evenly spaced from it.
            u = torch.rand((), generator=generator, dtype=torch.float64)
            points = (torch.arange(count) + u) / count
            rows = torch.searchsorted(share.cumsum(0), points).clamp(max=count - 1)
            weight, last = torch.zeros_like(weight), last[rows]
            return rows

        return choose


@dataclass(frozen=True)
class LookAhead:
    """Judge a state by where a few Euler steps of the ODE take it.

    Parameters
    ----------
    steps : int, default 0
        0 is the data prediction of the velocity that is known already, at no cost. With more, each
        look costs that many evaluations less the one that is known.
    """

    steps: int = 0

    def __call__(self, field: VelocityField, x: State, t: float, v: State) -> State:
        """Return the foreseen data."""
        if self.steps < 2 or t >= 1:
            return _LINEAR.data(v, x, t)
        times = uniform(self.steps, t_min=t)
        x = map_state(lambda a, b: a + (times[1] - t) * b, x, v)
        return integrate(field, x, plan(times[1:], Euler()))

    def cost(self) -> int:
        """Return the evaluations of a look."""
        return max(0, self.steps - 1)


_NEAR = LookAhead()


class Found(NamedTuple):
    """What a search gives: samples, their rewards, and evaluations of rows of the field."""

    samples: State
    rewards: Tensor
    evaluations: int


def search(
    field: VelocityField,
    x0: State,
    times: Sequence[float],
    reward: Reward,
    strategy: Strategy,
    *,
    seed: int = 0,
    solver: Solver = _ANCESTRAL,
    ahead: LookAhead = _NEAR,
) -> Found:
    """Sample with a reward that need not be differentiable.

    Parameters
    ----------
    field : VelocityField
        With its condition bound for all candidates.
    x0 : State, shape (n, *event)
        Noise of the candidates of one sample.
    times : sequence of float
        From 0 to 1.
    reward : callable
        Of data; on the way it is asked about predictions of them.
    strategy : Strategy
        :class:`BestOfN`, :class:`Beam` or :class:`Particles`.
    seed : int, default 0
    solver : Solver
        One that draws noise, except for :class:`BestOfN`.
    ahead : LookAhead
        How predictions are made.

    Returns
    -------
    Found
        One sample, or the population of :class:`Particles`.
    """
    count = len(leaves(x0)[0])
    calls = counted(field)
    choose = strategy.begin(count, counter_generator("search", seed))
    move = 0

    def correct(x: State, t: Time, v: State) -> tuple[State, State]:
        nonlocal move
        assert not isinstance(t, Tensor)
        rows = choose(move, _judged(reward, ahead(calls, x, t, v), count))
        move += 1
        if rows is None:
            return x, v
        return tuple(map_state(lambda a: a[rows.to(a.device)], s) for s in (x, v))  # type: ignore[return-value]

    steered: Correction = correct
    method = Steer(solver, steered) if strategy.looks else solver
    x = integrate(calls, x0, plan(times, method), noise=KeyedNoise(seed, range(count)))
    values = _judged(reward, x, count)
    rows = choose(-1, values)
    assert rows is not None
    chosen = map_state(lambda a: a[rows.to(a.device)], x)
    return Found(chosen, values[rows.to(values.device)], calls.calls * count)


def _judged(reward: Reward, x: State, count: int) -> Tensor:
    values = reward(x)
    if values.shape != (count,) or bool(values.isnan().any()):
        raise ValueError(
            f"a reward must give one number for each of {count} candidates, got shape "
            f"{tuple(values.shape)}{' with NaN' if values.isnan().any() else ''}."
        )
    return values


class Compared(NamedTuple):
    """One search at one budget."""

    strategy: Strategy
    ahead: LookAhead
    candidates: int
    evaluations: int
    best: float
    mean: float


def compare_search(
    field: VelocityField,
    draw: Callable[[int], State],
    reward: Reward,
    evaluations: int,
    strategies: Sequence[tuple[Strategy, LookAhead]],
    *,
    steps: int = 20,
    seed: int = 0,
    solver: Solver = _ANCESTRAL,
) -> list[Compared]:
    """Run searches at equal compute: who looks further has fewer candidates.

    Parameters
    ----------
    field : VelocityField
    draw : callable
        ``draw(n)``: noise of so many candidates.
    reward : callable
    evaluations : int
        Of single rows of the field, for each search.
    strategies : sequence of (Strategy, LookAhead)
    steps : int, default 20
    seed : int, default 0
    solver : Solver

    Returns
    -------
    list of Compared
        The best reward first.
    """
    rows = []
    for strategy, ahead in strategies:
        times = uniform(steps)
        each = steps + (steps * ahead.cost() if strategy.looks else 0)
        count = evaluations // each
        if count < 1:
            raise ValueError(
                f"{strategy} with {ahead} takes {each} evaluations for one candidate, got "
                f"{evaluations}; expected as many at least."
            )
        found = search(
            field, draw(count), times, reward, strategy, seed=seed, solver=solver, ahead=ahead
        )
        told = found.rewards.max().item(), found.rewards.double().mean().item()
        rows.append(Compared(strategy, ahead, count, found.evaluations, *told))
    return sorted(rows, key=lambda row: -row.best)
