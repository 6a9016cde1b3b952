"""Stochastic solvers: keyed noise, and the marginals of the ODE."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.paths import Trigonometric
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.solvers import (
    DDIM,
    RK4,
    Ancestral,
    Context,
    InterpolantSDE,
    combine,
    stochastic,
)
from rectiflow.solvers.exponential import first_order


def named(value: object) -> str:
    """Name a test by a solver without the address of a function in it: workers must agree."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


COUNT = 1500
WEIGHTS = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([[-1.5, 0.5], [1.0, -0.5]])
COVS = torch.stack((0.09 * torch.eye(2), torch.tensor([[0.5, 0.2], [0.2, 0.2]])))


def mixture(path=None) -> GaussianMixtureFlow:
    return GaussianMixtureFlow(WEIGHTS, MEANS, COVS, path=path)


def normal(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, generator=generator, dtype=torch.float64)


def energy_distance(distances: torch.Tensor, which: torch.Tensor) -> float:
    """Unbiased ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` between halves of a pool, times n / 2."""
    n = which.sum()
    x, y = which.double(), (~which).double()
    within = (x @ distances @ x + y @ distances @ y) / (n * (n - 1))
    return (n / 2 * (2 * (x @ distances @ y) / n**2 - within)).item()


@dataclasses.dataclass(frozen=True)
class BatchNoise:
    """Noise of the whole batch by one generator: fast, and all that a law is asked of."""

    seed: int
    step: int = 0

    def later(self, moves):
        return dataclasses.replace(self, step=self.step + moves)

    def like(self, x, stage=0):
        generator = counter_generator("test", self.seed, self.step, stage)
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.fixture(scope="module")
def distance():
    """How far a sample is from a marginal, over the 99 % quantile of samples of that marginal."""
    first = torch.arange(2 * COUNT) < COUNT

    @functools.cache
    def reference(t: float) -> tuple[torch.Tensor, float]:
        generator = torch.Generator().manual_seed(7)
        data = t * mixture().sample(2 * COUNT, generator=generator)
        exact = data + (1 - t) * normal(2 * COUNT, 8)
        pooled = torch.cdist(exact, exact)
        orders = [torch.randperm(2 * COUNT, generator=generator) for _ in range(100)]
        return exact[:COUNT], sorted(energy_distance(pooled, first[o]) for o in orders)[-2]

    def measure(sample: torch.Tensor, t: float) -> float:
        exact, critical = reference(t)
        pool = torch.cat((sample, exact))
        return energy_distance(torch.cdist(pool, pool), first) / critical

    return measure


def sampled(solver, t: float = 1.0, steps: int = 60, path=None) -> torch.Tensor:
    """Sample from time 0 to t."""
    moves = plan(uniform(steps, 0.0, t), solver)
    return integrate(mixture(path), normal(COUNT, 11), moves, noise=BatchNoise(3))


@pytest.mark.parametrize("t", [0.6, 1.0])
@pytest.mark.parametrize("solver", [RK4(), *map(InterpolantSDE, (0.0, 0.5, 1.0, 2.0))], ids=named)
def test_the_sde_has_the_marginals_of_the_ode(solver, t, distance):
    assert distance(sampled(solver, t), t) < 1.0


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.5, 2.0])
def test_the_energy_distance_sees_a_wrong_score(epsilon, factor, distance, monkeypatch):
    def wrong(path, start, stop, kept):  # the score takes away 1 - kept of the noise
        return first_order(path, start, stop, 1.0 - factor * (1.0 - kept))

    monkeypatch.setattr(stochastic, "first_order", wrong)
    assert distance(sampled(InterpolantSDE(epsilon), 0.6), 0.6) > 1.0


@pytest.mark.parametrize(
    "solver",
    [
        Ancestral(),
        Ancestral(0.5),
        InterpolantSDE(lambda t: 1.0 - t),
        InterpolantSDE(0.7, Trigonometric()),
        Ancestral(1.0, Trigonometric()),
    ],
    ids=named,
)
def test_marginals_of_other_noise_levels(solver, distance):
    assert distance(sampled(solver, path=solver.path), 1.0) < 1.0


@pytest.mark.parametrize("solver", [Ancestral(), Ancestral(0.4), InterpolantSDE(2.0)], ids=named)
def test_a_point_mass_is_exact_after_any_step(solver):
    """D is constant, so the marginal ``t x1 + (1 - t) N(0, 1)`` holds to sampling error."""
    target = torch.tensor([1.5, -0.5], dtype=torch.float64)
    count = 20_000
    end = integrate(
        lambda x, t: (target - x) / (1 - t),
        normal(count, 1),
        plan([0.0, 0.3, 0.8], solver),
        noise=BatchNoise(0),
    )
    error = 4 / math.sqrt(count)
    spread = (end - 0.8 * target) / 0.2
    assert (spread.mean(0).abs() < error).all()
    assert ((spread.var(0) - 1).abs() < error * math.sqrt(2)).all()


def test_fresh_noise_is_as_much_as_the_formula_says():
    """Ancestral step by the published formula, its own noise taken out."""
    x, noise, start, stop, eta = normal(4, 2), KeyedNoise(5, range(4)), 0.3, 0.5, 0.6
    v = mixture()(x, start)
    data, kept = x + (1 - start) * v, x - start * v
    sd = eta * (1 - stop) / (1 - start)
    sd *= math.sqrt((1 - start) ** 2 - (start / stop) ** 2 * (1 - stop) ** 2)
    expected = stop * data + math.sqrt((1 - stop) ** 2 - sd**2) * kept + sd * noise.like(x)
    end = integrate(mixture(), x, plan([start, stop], Ancestral(eta)), noise=noise)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-14)


def test_small_steps_are_euler_maruyama():
    x, noise, h, epsilon = normal(4, 2), KeyedNoise(5, range(4)), 1e-6, 1.7
    flow = mixture()
    end = integrate(flow, x, plan([0.4, 0.4 + h], InterpolantSDE(epsilon)), noise=noise)
    drift = flow(x, 0.4) + epsilon * flow.score(x, 0.4)
    expected = x + h * drift + math.sqrt(2 * epsilon * h) * noise.like(x)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-7)
    plain = InterpolantSDE(epsilon, score=flow.score)
    end = integrate(flow, x, plan([0.4, 0.4 + h], plain), noise=noise)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12)


def test_a_score_of_its_own(distance):
    """Euler-Maruyama with the mixture's own score; the level falls where the score is steep."""
    solver = InterpolantSDE(lambda t: (1.0 - t) ** 2, score=mixture().score)
    assert distance(sampled(solver, steps=200), 1.0) < 1.0


@pytest.mark.parametrize("solver", [Ancestral(0.0), InterpolantSDE(0.0)], ids=named)
def test_without_noise_it_is_ddim_bit_by_bit(solver):
    x = normal(5, 3)
    end = integrate(mixture(), x, plan(uniform(9), solver))
    assert torch.equal(end, integrate(mixture(), x, plan(uniform(9), DDIM())))


def test_one_evaluation_per_step():
    field = counted(mixture())
    integrate(field, normal(2, 0), plan(uniform(9), Ancestral()), noise=KeyedNoise(0, range(2)))
    assert field.calls == 9


# The noise


@dataclasses.dataclass(frozen=True)
class TwoDraws(Ancestral):
    """A solver that draws twice in a move."""

    def step(self, field, x, start, stop, context):
        x, v = context.begin(field, x, start)
        first, second = context.noise.like(x, 0), context.noise.like(x, 1)
        assert not torch.equal(first, second)
        return combine((1.0, stop - start, 0.1, 0.1), (x, v, first, second)), None


@pytest.mark.parametrize("solver", [Ancestral(), InterpolantSDE(1.0), TwoDraws()], ids=named)
def test_the_same_plan_twice_gives_the_same_numbers_in_any_batch(solver):
    x, moves = normal(4, 6), plan(uniform(6), solver)

    def run(rows):
        return integrate(mixture(), x[rows], moves, noise=KeyedNoise(1, rows))

    whole = run([0, 1, 2, 3])
    assert torch.equal(whole, run([0, 1, 2, 3]))
    pairs = torch.cat((run([0, 1]), run([2, 3])))
    torch.testing.assert_close(pairs, whole, rtol=0, atol=1e-13)
    shards = [run([0, 2]), run([1, 3])]
    torch.testing.assert_close(torch.stack(shards, 1).flatten(0, 1), whole, rtol=0, atol=1e-13)
    other = integrate(mixture(), x, moves, noise=KeyedNoise(2, range(4)))
    assert (other - whole).abs().min() > 1e-6


def test_no_two_draws_are_one():
    x = torch.zeros(3, 2)
    draws = [
        KeyedNoise(seed, range(first, first + 3), step).like(x, stage)
        for seed in (0, 1)
        for first in (0, 3)
        for step in (0, 1)
        for stage in (0, 1)
    ]
    assert torch.cat(draws).unique().numel() == 16 * 6


def test_a_run_goes_on_with_later_noise():
    x, moves, noise = normal(3, 6), plan(uniform(6), Ancestral()), KeyedNoise(1, range(3))
    half = integrate(mixture(), x, moves[:2], noise=noise)
    end = integrate(mixture(), half, moves[2:], noise=noise.later(2))
    assert torch.equal(end, integrate(mixture(), x, moves, noise=noise))
    assert not torch.equal(end, integrate(mixture(), half, moves[2:], noise=noise))


def test_a_jump_leaves_the_noise_of_later_moves_alone():
    x, moves, noise = normal(3, 6), plan(uniform(6), Ancestral()), KeyedNoise(1, range(3))

    def hook(moved):
        return moved.state + 1 if moved.index == 1 else None

    half = integrate(mixture(), x, moves[:2], noise=noise) + 1
    end = integrate(mixture(), half, moves[2:], noise=noise.later(2))
    assert torch.equal(integrate(mixture(), x, moves, noise=noise, hook=hook), end)


def test_a_batch_may_be_empty():
    steps, none = plan(uniform(3), Ancestral()), torch.zeros(0, 2)
    assert integrate(lambda x, t: -x, none, steps, noise=KeyedNoise(0, [])).shape == (0, 2)


def test_noise_of_named_parts_and_of_half_precision():
    x = {"b": torch.zeros(2, 3), "a": torch.zeros(2, dtype=torch.bfloat16)}
    drawn = KeyedNoise(0, [4, 9]).like(x)
    assert drawn["a"].dtype == torch.bfloat16
    one = KeyedNoise(0, [9]).like({"a": x["a"][:1], "b": x["b"][:1]})
    assert torch.equal(drawn["b"][1:], one["b"])
    assert torch.equal(drawn["a"][1:], one["a"])


@pytest.mark.gpu
def test_noise_is_the_same_on_a_device():
    host = KeyedNoise(0, range(4)).like(torch.zeros(4, 5))
    assert torch.equal(KeyedNoise(0, range(4)).like(torch.zeros(4, 5, device="cuda")).cpu(), host)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: integrate(mixture(), normal(2, 0), plan(uniform(3), Ancestral())),
            r"draws noise, got none; expected noise=KeyedNoise\(seed, samples\)",
        ),
        (
            lambda: integrate(
                mixture(),
                normal(2, 0),
                plan(uniform(3), Ancestral()),
                noise=KeyedNoise(0, range(3)),
            ),
            r"one sample number per row, got 3 for 2 rows",
        ),
        (
            lambda: integrate(mixture(), normal(2, 0), reverse(plan(uniform(3), Ancestral()))),
            r"samples towards the data, got a move from 1.0 to 0.66",
        ),
        (
            lambda: Ancestral().step(
                mixture(), normal(2, 0), torch.zeros(2), torch.ones(2), Context()
            ),
            r"draws noise for whole batches, got times per row",
        ),
        (lambda: Ancestral(1.5), r"eta must be in \[0, 1\], got 1.5"),
        (
            lambda: integrate(
                mixture(),
                normal(2, 0),
                plan(uniform(3), InterpolantSDE(-1.0)),
                noise=KeyedNoise(0, range(2)),
            ),
            r"epsilon must not be negative, got -1.0",
        ),
    ],
)
def test_what_cannot_be_sampled_is_named(run, message):
    with pytest.raises(ValueError, match=message):
        run()
