"""Closed-form flows against autograd, quadrature and each other."""

from __future__ import annotations

import math

import pytest
import torch
from rectiflow.analytic import FiniteDataFlow, GaussianMixtureFlow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.paths import (
    Linear,
    LinearVP,
    Path,
    Polynomial,
    TargetCFM,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.solvers.runge_kutta import RK4
from torch.testing import assert_close

PATHS = [Linear(), Trigonometric(), VariancePreserving(), Polynomial(2), LinearVP(), TargetCFM(0.1)]
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariances(*shape: int, dim: int, seed: int) -> torch.Tensor:
    root = randn(*shape, dim, dim, seed=seed) / 2
    return root @ root.mT + 0.1 * torch.eye(dim)


def mixture(path: Path | None = None, shifted: bool = True, dim: int = 3) -> GaussianMixtureFlow:
    source = {"source_mean": randn(dim, seed=7), "source_cov": covariances(dim=dim, seed=8)}
    return GaussianMixtureFlow(
        torch.tensor([0.2, 0.5, 0.3]),
        randn(3, dim, seed=1) * 2,
        covariances(3, dim=dim, seed=2),
        path=path,
        **(source if shifted else {}),
    )


def points(path: Path | None = None) -> FiniteDataFlow:
    return FiniteDataFlow(
        randn(7, 2, 2, seed=3), [1, 2, 3, 1, 1, 1, 1], path=path, source_scale=1.5
    )


BUILDERS = [mixture, points]


def event(flow) -> tuple[int, ...]:
    return (3,) if isinstance(flow, GaussianMixtureFlow) else (2, 2)


@each_path
@pytest.mark.parametrize("build", BUILDERS)
def test_mass_is_conserved(path: Path, build) -> None:
    """Acceptance 2: d/dt log p + v . score + div v = 0, the time derivative by autograd."""
    flow = build(path)
    x, t = randn(9, *event(flow)), torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    _, rate = torch.func.jvp(lambda s: flow.log_prob(x, s), (t,), (torch.ones_like(t),))
    along = (flow.velocity(x, t) * flow.score(x, t)).flatten(1).sum(1)
    residual = rate + along + flow.divergence(x, t)
    assert residual.abs().max() < 1e-8


@each_path
@pytest.mark.parametrize("build", BUILDERS)
def test_derivatives_are_those_of_autograd(path: Path, build) -> None:
    flow = build(path)
    x = randn(5, *event(flow))
    t = torch.linspace(0.2, 0.8, 5, dtype=torch.float64)
    z = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(flow.log_prob(z, t).sum(), z)
    assert_close(flow.score(x, t), score, rtol=1e-8, atol=1e-10)
    jacobian = flow.jacobian(x, t)
    dim = x[0].numel()
    for i in range(5):
        dense = torch.func.jacrev(lambda p, i=i: flow.velocity(p[None], t[i : i + 1])[0])(x[i])
        assert_close(jacobian[i], dense.reshape(dim, dim), rtol=1e-8, atol=1e-10)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    assert_close(flow.divergence(x, t), trace, rtol=1e-9, atol=1e-9)


@each_path
@pytest.mark.parametrize("build", BUILDERS)
def test_predictions_fit_together(path: Path, build) -> None:
    flow = build(path)
    x, t = randn(4, *event(flow)), torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    c = [value.reshape(-1, *(1,) * (x.ndim - 1)) for value in path.coeffs(t)]
    data, noise = flow.data(x, t), flow.noise(x, t)
    assert_close(c[0] * data + c[1] * noise, x)
    assert_close(c[2] * data + c[3] * noise, flow.velocity(x, t))


@pytest.mark.parametrize("build", BUILDERS)
def test_one_time_or_one_per_sample(build) -> None:
    flow = build()
    x = randn(4, *event(flow))
    t = torch.full((4,), 0.3, dtype=torch.float64)
    for name in ("velocity", "data", "noise", "score", "log_prob", "divergence", "jacobian"):
        method = getattr(flow, name)
        assert_close(method(x, 0.3), method(x, t))
        assert_close(method(x, t[0]), method(x, t))
        assert method(x.float(), 0.3).dtype == torch.float32
        assert_close(method(x.float(), 0.3).double(), method(x, 0.3), rtol=1e-4, atol=1e-4)
    assert torch.equal(flow(x, t), flow.velocity(x, t))


def test_velocity_is_the_conditional_mean() -> None:
    """Self-normalised importance sampling of E[dx_t/dt | x_t = x] in one dimension."""
    one, variance = torch.tensor([0.4, 0.6]), torch.tensor([[[0.3]], [[0.8]]])
    flow = GaussianMixtureFlow(one, torch.tensor([[-1.0], [2.0]]), variance)
    x1 = flow.sample(400_000, generator=torch.Generator().manual_seed(0))
    x, t = 0.4, 0.6
    x0 = (x - t * x1) / (1 - t)
    weight = torch.exp(-x0.square() / 2)
    mean = (weight * (x1 - x0)).sum() / weight.sum()
    exact = flow.velocity(torch.tensor([[x]], dtype=torch.float64), t)
    assert mean.item() == pytest.approx(exact.item(), abs=0.01)


@pytest.mark.parametrize("build", BUILDERS)
def test_flow_map_solves_the_equation_and_is_inverted(build) -> None:
    flow = build()
    x0 = randn(6, *event(flow))
    middle = flow.flow_map(x0, 0.0, 0.7, tolerance=1e-9)
    fine = integrate(flow.velocity, x0, plan(uniform(400, 0.0, 0.7), RK4()))
    assert_close(middle, fine, rtol=0, atol=1e-7)
    assert_close(flow.flow_map(middle, 0.7, 0.0, tolerance=1e-9), x0, rtol=0, atol=1e-6)
    assert flow.flow_map(x0.float(), 0.0, 0.1).dtype == torch.float32


def test_flow_map_of_a_gaussian_is_its_scaling() -> None:
    for path in (*PATHS[:2], *PATHS[3:5]):
        cov = torch.diag(torch.tensor([4.0, 0.25]))
        flow = GaussianMixtureFlow(torch.ones(1), torch.tensor([[1.0, -1.0]]), cov[None], path=path)
        x0 = randn(8, 2)
        expected = torch.tensor([1.0, -1.0]) + x0 * torch.tensor([2.0, 0.5])
        assert_close(flow.flow_map(x0), expected, rtol=0, atol=1e-7)


def test_flow_map_carries_the_source_to_the_data() -> None:
    """Density at the end equals density at the start over the volume: no samples involved."""
    flow = mixture(dim=2)
    x0 = randn(4, 2)
    jacobians = []
    h = 1e-4
    for k in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[k] = h
        jacobians.append((flow.flow_map(x0 + shift) - flow.flow_map(x0 - shift)) / (2 * h))
    log_volume = torch.linalg.slogdet(torch.stack(jacobians, -1)).logabsdet
    carried = flow.log_prob(x0, 0.0) - log_volume
    assert_close(flow.log_prob(flow.flow_map(x0)), carried, rtol=0, atol=1e-4)


def test_samples_have_the_right_moments() -> None:
    flow, generator = mixture(), torch.Generator().manual_seed(0)
    x1, x0 = (
        flow.sample(200_000, generator=generator),
        flow.sample_source(200_000, generator=generator),
    )
    mean = (flow.weights[:, None] * flow.means).sum(0)
    gap = flow.means - mean
    cov = (flow.weights[:, None, None] * (flow.covs + gap[:, :, None] * gap[:, None])).sum(0)
    assert_close(x1.mean(0), mean, atol=0.03, rtol=0)
    assert_close(torch.cov(x1.T), cov, atol=0.1, rtol=0)
    assert_close(x0.mean(0), flow.source_mean, atol=0.02, rtol=0)
    assert_close(torch.cov(x0.T), flow.source_cov, atol=0.03, rtol=0)
    finite = points()
    drawn = finite.sample(11_000, generator=generator)
    share = (drawn == finite.points[2]).flatten(1).all(1).double().mean()
    assert share.item() == pytest.approx(0.3, abs=0.02)
    assert finite.sample_source(5_000, generator=generator).std().item() == pytest.approx(
        1.5, abs=0.03
    )


@pytest.mark.parametrize("path", [VariancePreserving(), LinearVP()])
def test_velocity_is_finite_where_the_path_is_vertical(path: Path) -> None:
    flow = mixture(path, shifted=False)
    x = randn(3, 3)
    near = flow.velocity(x, 1 - 1e-9)
    assert_close(flow.velocity(x, 1.0), near, rtol=1e-3, atol=1e-3)
    assert flow.jacobian(x, 1.0).isfinite().all()


def test_finite_data_flow_is_the_narrow_limit_of_the_mixture() -> None:
    data = randn(4, 2)
    narrow = GaussianMixtureFlow(torch.ones(4), data, torch.eye(2).expand(4, 2, 2) * 1e-14)
    finite = FiniteDataFlow(data)
    x, t = randn(6, 2, seed=1), torch.linspace(0.0, 0.9, 6, dtype=torch.float64)
    for name in ("velocity", "score", "data", "noise", "divergence", "jacobian", "log_prob"):
        assert_close(getattr(finite, name)(x, t), getattr(narrow, name)(x, t), rtol=1e-8, atol=1e-8)


def test_finite_data_flow_ends_on_the_points() -> None:
    flow = points()
    x0 = flow.sample_source(12, generator=torch.Generator().manual_seed(0))
    out = flow.flow_map(x0, tolerance=1e-7)
    distance = (out[:, None] - flow.points).flatten(2).norm(dim=2).min(1).values
    assert distance.max() < 1e-6
    p = flow.posterior(flow.points * 0.999, 0.999)
    assert_close(p, torch.eye(7).double())


def test_singular_places_are_errors() -> None:
    flow, x = points(), randn(2, 2, 2)
    for name in ("velocity", "score", "log_prob", "divergence"):
        with pytest.raises(ValueError, match=r"a set of points here, got t=1\.0"):
            getattr(flow, name)(x, 1.0)
    with pytest.raises(ValueError, match=r"cannot start at t=1\.0; expected at most 0\.9999"):
        flow.flow_map(x, 1.0, 0.0)
    flat = GaussianMixtureFlow(
        torch.ones(1), torch.zeros(1, 2), torch.diag(torch.tensor([1.0, 0]))[None]
    )
    assert flat.velocity(randn(2, 2), 0.999).isfinite().all()
    with pytest.raises(ValueError, match="covariance of a component is singular, got t=1"):
        flat.log_prob(randn(2, 2))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"shapes \(k,\), \(k, d\), \(k, d, d\), got \(2,\)"):
        GaussianMixtureFlow(torch.ones(2), torch.zeros(1, 2), torch.eye(2)[None])
    with pytest.raises(
        ValueError, match=r"one positive weight each, got 3 points and weights of shape \(2,\)"
    ):
        FiniteDataFlow(torch.zeros(3, 2), [1.0, 1.0])
    with pytest.raises(ValueError, match="needs points"):
        FiniteDataFlow(torch.zeros(0, 2))


def test_log_prob_of_the_source_is_normal() -> None:
    x = randn(5, 2, 2)
    assert_close(
        points().log_prob(x),
        torch.distributions.Normal(0.0, 1.5).log_prob(x).sum((1, 2)),
    )
    peak = mixture(shifted=False).log_prob(torch.zeros(1, 3), 0.0).item()
    assert peak == pytest.approx(-1.5 * math.log(2 * math.pi))
