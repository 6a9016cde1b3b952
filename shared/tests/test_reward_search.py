"""Cycles and searches, against closed forms."""

from __future__ import annotations

import pytest
import torch
from rectiflow import GaussianMixtureFlow, KeyedNoise, counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.paths import Linear, Trigonometric
from rectiflow.solvers import Ancestral, Euler
from rectiflow.steering import (
    Beam,
    BestOfN,
    LookAhead,
    Particles,
    Renoise,
    compare_search,
    cycles,
    one_way,
    search,
)
from rectiflow.steering.cycles import renoising

F64 = torch.float64
WEIGHTS = torch.tensor([0.7, 0.3])
MEANS = torch.tensor([[-1.0], [1.0]])
MIXTURE = GaussianMixtureFlow(WEIGHTS, MEANS, 0.09 * torch.ones(2, 1, 1))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("path", [Linear(), Trigonometric()])
def test_renoising_composes(path):
    t, u, s = 0.8, 0.5, 0.2
    first, second, whole = (renoising(path, *pair) for pair in ((t, u), (u, s), (t, s)))
    assert first[0] * second[0] == pytest.approx(whole[0], abs=1e-12)
    variance = second[0] ** 2 * first[1] ** 2 + second[1] ** 2
    assert variance == pytest.approx(whole[1] ** 2, abs=1e-12)


def test_renoising_keeps_the_law():
    x1 = MIXTURE.sample(100_000, generator=torch.Generator().manual_seed(1))
    x = 0.7 * x1 + 0.3 * randn(100_000, 1)
    noise = KeyedNoise(0, [0])
    found = integrate(MIXTURE, x.T, plan([0.7, 0.4], Renoise()), noise=noise).T
    variance = 0.4**2 * x1.var() + 0.6**2
    assert found.mean() == pytest.approx(0.4 * x1.mean().item(), abs=0.01)
    assert found.var() == pytest.approx(variance.item(), rel=0.02)


def test_cycles_cost_their_ways_up():
    field, up = counted(MIXTURE), uniform(4, t_min=0.3, t_max=0.5)
    moves = cycles(up, Ancestral(), 5)
    integrate(field, randn(2, 1), moves, noise=KeyedNoise(0, range(2)))
    assert field.calls == moves.nfe == 20
    assert (moves[0].start, moves[len(moves) - 1].stop) == (0.5, 0.5)
    for bad in ((lambda: cycles(up, Ancestral(), 0)), (lambda: _go(plan([0.2, 0.4], Renoise())))):
        with pytest.raises(ValueError, match=r"at least 1|towards the noise"):
            bad()


def _go(moves):
    return integrate(MIXTURE, randn(2, 1), moves, noise=KeyedNoise(0, range(2)))


def test_one_way_tells_the_surroundings_what_the_patch_is():
    """Two coordinates that agree in the data: the free one takes the side of the held one."""
    covs = 0.02 * torch.eye(2).expand(2, 2, 2)
    twins = GaussianMixtureFlow(torch.ones(2), torch.tensor([[-1.0, -1], [1, 1]]), covs)
    patch = torch.tensor([1.0, 1.0], dtype=F64).expand(40, 2)
    background = torch.tensor([1.0, -1.0], dtype=F64).expand(40, 2)
    field, keep = counted(twins), torch.tensor([True, False])
    noise = KeyedNoise(0, range(40))
    found = one_way(field, background, patch, keep, noise=noise, steps=20)
    assert (found[:, 1] > 0).double().mean() > 0.8
    assert (found[:, 0] - 1).abs().median() < 0.1
    assert field.calls == (4 + 1 + 1) + 10 + 10 * 4 + (2 + 8)
    again = one_way(twins, background, patch, keep, noise=noise, steps=20)
    assert torch.equal(found, again)
    with pytest.raises(ValueError, match="must grow"):
        one_way(twins, background, patch, keep, noise=noise, turn=(0.5, 0.3))


def tilt(x):
    return 1.5 * x[:, 0]


def tilted():
    """``p(x) exp(1.5 x)`` is a mixture again: mean and weight of its right part."""
    means = MEANS[:, 0].double() + 1.5 * 0.09
    weights = WEIGHTS.double() * (1.5 * MEANS[:, 0].double()).exp()
    weights = weights / weights.sum()
    return (weights * means).sum().item(), weights[1].item()


@pytest.mark.parametrize(
    ("ahead", "steps", "near"), [(LookAhead(), 240, 0.05), (LookAhead(3), 50, 0.12)]
)
def test_particles_are_exact_on_a_tilted_mixture(ahead, steps, near):
    """As far as the sampler itself is: its steps leave an error of first order."""
    x0 = randn(3000, 1, seed=2)
    found = search(MIXTURE, x0, uniform(steps), tilt, Particles(), ahead=ahead, seed=1)
    mean, right = tilted()
    assert found.samples.shape == x0.shape
    assert found.samples.mean().item() == pytest.approx(mean, abs=near)
    assert (found.samples > 0).double().mean().item() == pytest.approx(right, abs=near)
    looks = steps * ahead.cost()
    assert found.evaluations <= 3000 * (steps + looks)
    free = integrate(MIXTURE, x0, plan(uniform(60), Ancestral()), noise=KeyedNoise(1, range(3000)))
    assert abs(free.mean().item() - mean) > 0.5


def test_best_of_n_is_the_best_of_all():
    x0 = randn(50, 1, seed=3)
    found = search(MIXTURE, x0, uniform(8), tilt, BestOfN(), solver=Euler())
    ends = integrate(MIXTURE, x0, plan(uniform(8), Euler()))
    assert torch.equal(found.samples, ends[tilt(ends).argmax()][None])
    assert found.rewards.shape == (1,)
    assert found.evaluations == 50 * 8


def test_a_beam_concentrates():
    x0 = randn(16, 1, seed=4)
    beam = search(MIXTURE, x0, uniform(20), tilt, Beam(4, every=2), seed=0)
    assert beam.samples.shape == (1, 1)
    assert beam.samples.item() > 0.5
    assert torch.equal(search(MIXTURE, x0, uniform(20), tilt, Beam(4, every=2)).samples, beam[0])


def test_equal_compute_table():
    """Rewards that few samples have: search beats drawing; nobody spends more than allowed."""
    rows = compare_search(
        MIXTURE,
        lambda n: randn(n, 1, seed=5),
        lambda x: -(x[:, 0] - 1.6).square(),
        1600,
        [(BestOfN(), LookAhead()), (Beam(4), LookAhead()), (Particles(0.05), LookAhead(3))],
        steps=20,
    )
    assert [row.best for row in rows] == sorted((row.best for row in rows), reverse=True)
    by = {type(row.strategy): row for row in rows}
    assert (by[BestOfN].candidates, by[Beam].candidates, by[Particles].candidates) == (80, 80, 26)
    assert all(row.evaluations <= 1600 for row in rows)
    assert by[Beam].best >= by[BestOfN].best
    assert by[Particles].mean > -0.2


@pytest.mark.parametrize(
    ("strategy", "reward", "said"),
    [
        (Beam(9), tilt, "keep must lie"),
        (Particles(0.0), tilt, "temperature"),
        (BestOfN(), lambda x: x, "one number for each of 4"),
        (Particles(), lambda x: x[:, 0] * float("nan"), "with NaN"),
    ],
)
def test_bad_searches(strategy, reward, said):
    with pytest.raises(ValueError, match=said):
        search(MIXTURE, randn(4, 1), uniform(3), reward, strategy)
