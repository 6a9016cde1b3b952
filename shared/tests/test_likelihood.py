"""Likelihoods: closed forms, estimators, gradients, any event shape."""

from __future__ import annotations

import math

import pytest
import torch
from rectiflow.analytic import FiniteDataFlow, GaussianMixtureFlow
from rectiflow.fields import bind
from rectiflow.grids import uniform
from rectiflow.integrate import plan
from rectiflow.likelihood import Exact, Hutchinson, bits_per_dim, dequantise, log_likelihood
from rectiflow.solvers import RK4, Adams, Midpoint
from rectiflow.sources import Normal
from torch.testing import assert_close

SOURCE = Normal().log_prob


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def mixture() -> GaussianMixtureFlow:
    root = randn(3, 2, 2, seed=2) / 2
    covs = root @ root.mT + 0.1 * torch.eye(2)
    return GaussianMixtureFlow(torch.tensor([0.2, 0.5, 0.3]), randn(3, 2, seed=1) * 2, covs)


def test_mixture_density_and_its_convergence() -> None:
    """Acceptance 9: below 1e-3 with 50 RK4 steps, and fourth order from there."""
    flow = mixture()
    x1 = flow.sample(8, generator=generator())
    gap = []
    for steps in (50, 100):
        out = log_likelihood(flow.velocity, x1, SOURCE, plan(uniform(steps), RK4()))
        gap.append((out.log_prob - flow.log_prob(x1)).abs().max().item())
        assert out.nfe == 4 * steps
    assert gap[0] < 1e-3
    assert gap[1] < 1e-5
    assert math.log2(gap[0] / gap[1]) > 3.5


def test_a_multistep_plan_starts_at_its_start() -> None:
    """3.1e-3 where the reversed plan ends with the starting steps."""
    flow = GaussianMixtureFlow(
        torch.tensor([0.5, 0.5]),
        torch.tensor([[0.7, 0.0], [-0.5, 0.4]]),
        (torch.eye(2) / 2).expand(2, 2, 2),
    )
    x1 = flow.sample(16, generator=generator())
    out = log_likelihood(flow.velocity, x1, SOURCE, plan(uniform(50), Adams(4)))
    assert (out.log_prob - flow.log_prob(x1)).abs().max() < 1e-5
    assert out.nfe == 50 + 9


def test_the_noise_it_finds_is_the_flow_map_inverted() -> None:
    flow = mixture()
    x0 = randn(8, 2)
    out = log_likelihood(flow.velocity, flow.flow_map(x0), SOURCE, plan(uniform(80), RK4()))
    assert_close(out.x0, x0, rtol=0, atol=1e-5)


def test_any_event_shape_and_any_plan() -> None:
    """A linear field on images: x(1) = e^{0.7} x(0), so log p1 = log p0 - 0.7 d."""
    x1 = randn(3, 2, 4, 4)
    for moves in (plan(uniform(50), RK4()), plan(uniform(60), Midpoint())):
        out = log_likelihood(lambda x, t: 0.7 * x, x1, SOURCE, moves, divergence=Exact(chunk=5))
        expected = SOURCE(x1 * math.exp(-0.7)) - 0.7 * 32
        assert_close(out.log_prob, expected, rtol=1e-4, atol=0)
        assert out.x0.shape == x1.shape
        assert out.estimates.shape == (3, 1)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_exact_divergence_is_the_trace(chunk: int) -> None:
    flow = mixture()
    x = randn(7, 2, seed=3)
    v, div = Exact(chunk)(flow.velocity, x, 0.4)
    assert_close(v, flow.velocity(x, 0.4))
    assert_close(div[:, 0], flow.divergence(x, 0.4))
    finite = FiniteDataFlow(randn(5, 3, 2))
    y = randn(4, 3, 2, seed=4)
    assert_close(Exact(chunk)(finite.velocity, y, 0.4)[1][:, 0], finite.divergence(y, 0.4))


@pytest.mark.parametrize("rademacher", [True, False])
def test_estimates_are_unbiased(rademacher: bool) -> None:
    """The mean over 4096 probes lies within 4 standard errors of the exact value."""
    flow = mixture()
    x1 = flow.sample(3, generator=generator(1))
    moves = plan(uniform(10), RK4())
    exact = log_likelihood(flow.velocity, x1, SOURCE, moves).log_prob
    method = Hutchinson(4096, rademacher, chunk=4096)
    out = log_likelihood(
        flow.velocity, x1, SOURCE, moves, divergence=method, generator=generator(2)
    )
    assert out.estimates.shape == (3, 4096)
    assert_close(out.log_prob, out.estimates.mean(1))
    assert (out.standard_error > 0).all()
    assert ((out.log_prob - exact).abs() < 4 * out.standard_error).all()


def test_rademacher_is_exact_for_a_diagonal_field() -> None:
    rates, x1 = torch.tensor([0.5, -1.0, 2.0]).double(), randn(3, 3)
    a = log_likelihood(lambda x, t: rates * x, x1, SOURCE)
    b = log_likelihood(
        lambda x, t: rates * x, x1, SOURCE, divergence=Hutchinson(2), generator=generator()
    )
    assert_close(a.log_prob, b.log_prob)
    assert_close(b.standard_error, torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_probes_are_fixed_along_a_trajectory_and_reproducible() -> None:
    """One full turn by a traceless field: with fixed probes the estimates cancel exactly."""
    matrix, x1 = randn(3, 3), randn(2, 3)
    runs = [
        log_likelihood(
            lambda x, t: x @ matrix.T,
            x1,
            SOURCE,
            plan(uniform(steps), RK4()),
            divergence=Hutchinson(),
            generator=generator(3),
        )
        for steps in (40, 80, 80)
    ]
    volume = [out.log_prob - SOURCE(out.x0) for out in runs]
    probe = Hutchinson().probes(x1, generator(3))[0]
    assert_close(volume[0], -torch.einsum("bi,ij,bj->b", probe, matrix, probe))
    assert_close(volume[0], volume[1])
    assert torch.equal(runs[1].log_prob, runs[2].log_prob)


@pytest.mark.parametrize("chunk", [1, 16])
def test_gradients_by_data_and_by_parameters(chunk: int) -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x1 = randn(4, 3).requires_grad_()
    out = log_likelihood(
        lambda x, t: rate * x,
        x1,
        SOURCE,
        plan(uniform(30), RK4()),
        divergence=Exact(chunk),
        differentiable=True,
    )
    by_rate, by_data = torch.autograd.grad(out.log_prob.sum(), (rate, x1))
    x0 = x1.detach() * math.exp(-0.7)
    assert_close(by_data, -x0 * math.exp(-0.7), rtol=1e-6, atol=1e-6)
    assert_close(by_rate, (x0.square().sum() - 12).detach(), rtol=1e-6, atol=1e-6)


def test_score_of_a_mixture_by_differentiation() -> None:
    flow = mixture()
    x1 = flow.sample(5, generator=generator(4)).requires_grad_()
    out = log_likelihood(flow.velocity, x1, SOURCE, plan(uniform(60), RK4()), differentiable=True)
    (score,) = torch.autograd.grad(out.log_prob.sum(), x1)
    assert_close(score, flow.score(x1.detach(), 1.0), rtol=0, atol=1e-2)


def test_no_graph_is_kept_unless_asked_and_callers_mode_is_restored() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    field = bind(lambda x, t: net(x))
    moves = plan(uniform(4), RK4())
    out = log_likelihood(field, torch.zeros(3, 2), SOURCE, moves)
    assert not out.log_prob.requires_grad
    assert torch.is_grad_enabled()
    with torch.no_grad():
        inside = log_likelihood(field, torch.zeros(3, 2), SOURCE, moves)
    assert_close(inside.log_prob, out.log_prob)
    trained = log_likelihood(field, torch.zeros(3, 2), SOURCE, moves, differentiable=True)
    trained.log_prob.mean().backward()
    assert net[0].weight.grad.abs().sum() > 0


def test_constant_field_has_no_divergence() -> None:
    for differentiable in (False, True):
        out = log_likelihood(
            lambda x, t: torch.ones_like(x), torch.ones(2, 3), SOURCE, differentiable=differentiable
        )
        assert_close(out.log_prob, SOURCE(torch.zeros(2, 3)))


def test_bits_per_dim() -> None:
    """A uniform density over the 256 cells of [-1, 1] is 8 bits per dimension."""
    log_prob = torch.tensor(-12 * math.log(2.0))
    assert bits_per_dim(log_prob, 12, offset=7.0).item() == pytest.approx(8.0)
    assert bits_per_dim(log_prob, 12).item() == pytest.approx(1.0)


def test_dequantisation_fills_the_cells() -> None:
    levels = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(20_000, 3)
    x = dequantise(levels, generator=generator())
    low = torch.tensor([-1.0, 0.0, 1 - 1 / 128])
    assert (x >= low).all()
    assert (x <= low + 1 / 128).all()
    assert_close(x.mean(0), low + 1 / 256, atol=1e-4, rtol=0)
    assert torch.equal(((x + 1) * 128).floor().clamp(max=255), levels.float())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        Exact(0)
    with pytest.raises(ValueError, match="n_probes must be at least 1, got 0"):
        Hutchinson(0)
    with pytest.raises(ValueError, match="needs probes, got None"):
        Hutchinson()(lambda x, t: x, torch.zeros(1, 1), 0.0)
    with pytest.raises(ValueError, match="at least two probes, got 1"):
        log_likelihood(lambda x, t: x, torch.zeros(1, 1), SOURCE).standard_error.item()
    with pytest.raises(ValueError, match=r"uint8, got torch\.float32"):
        dequantise(torch.zeros(1))
    with pytest.raises(ValueError, match="dims must be at least 1"):
        bits_per_dim(torch.zeros(1), 0)
