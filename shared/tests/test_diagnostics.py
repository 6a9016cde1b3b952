"""Diagnostics on fields whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.diagnostics import (
    asymmetry,
    first_order_defect,
    flow_jacobian_svd,
    gauge_residual,
    intrinsic_dimension,
    score,
    score_gauge,
    straightness,
    trajectory,
    transport_cost,
    zero_mean_basis,
)
from rectiflow.grids import uniform
from rectiflow.likelihood import Hutchinson
from rectiflow.paths import Linear, Trigonometric, VariancePreserving
from rectiflow.solvers.runge_kutta import Euler
from torch.testing import assert_close

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz")


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[key])


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def sigma_points(dim: int) -> torch.Tensor:
    """Points whose mean of any quadratic form is that of the standard normal."""
    axes = math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)
    return torch.cat([axes, -axes])


def diagonal() -> GaussianMixtureFlow:
    mean, variance = golden("diag/mu"), golden("diag/s")
    return GaussianMixtureFlow(torch.ones(1), mean[None], torch.diag(variance)[None])


def gauge_field(x: torch.Tensor, t: object) -> torch.Tensor:
    return x @ (golden("gauge/cov") @ golden("gauge/skew")).T


def gauge_score(x: torch.Tensor, t: object) -> torch.Tensor:
    return -torch.linalg.solve(golden("gauge/cov"), x.T).T


def test_golden_straightness_and_cost_of_a_gaussian() -> None:
    """Acceptance 6: exact expectations, because everything is quadratic in x0."""
    flow, x0 = diagonal(), sigma_points(5)
    out = straightness(flow.velocity, x0, grid=uniform(200))
    assert_close(out.total, golden("diag/straightness_S"), rtol=1e-6, atol=0)
    assert out.per_time.shape == (201,)
    assert out.times == uniform(200)
    x1 = trajectory(flow.velocity, x0, uniform(200))[-1]
    cost = transport_cost(x0, x1)
    assert_close(cost, golden("diag/cost_rectified"), rtol=1e-6, atol=0)
    assert_close(cost, golden("diag/w2_squared"), rtol=1e-6, atol=0)
    assert cost < golden("diag/cost_independent")


def test_second_rectification_is_straight_and_keeps_the_cost() -> None:
    """The exact 2-rectified field of a Gaussian sends x0 to mu + sqrt(s) x0 along a line."""
    mean, scale = golden("diag/mu"), golden("diag/s").sqrt()

    def second(x: torch.Tensor, t: float) -> torch.Tensor:
        x0 = (x - t * mean) / (1 - t + t * scale)
        return mean + scale * x0 - x0

    x0 = sigma_points(5)
    out = straightness(second, x0, grid=uniform(50))
    assert out.total < 1e-6
    one_step = trajectory(second, x0, [0.0, 1.0], Euler())[-1]
    assert_close(transport_cost(x0, one_step), golden("diag/w2_squared"), rtol=1e-9, atol=0)


def test_straightness_of_a_known_curve() -> None:
    """v = 2t: displacement 1, so S = int (1 - 2t)² = 1/3 per dimension."""
    x0 = torch.zeros(4, 3, 2, dtype=torch.float64)
    out = straightness(lambda x, t: torch.full_like(x, 2 * t), x0, grid=uniform(10))
    assert_close(out.total, torch.tensor(2.0).double())
    t = torch.tensor(uniform(10), dtype=torch.float64)
    assert_close(out.per_time, 6 * (1 - 2 * t) ** 2)


def test_transport_cost_never_grows() -> None:
    """Acceptance 7: independent >= rectified >= optimal on the same end points."""
    from scipy.optimize import linear_sum_assignment

    flow = GaussianMixtureFlow(golden("gmm2d/w"), golden("gmm2d/mean"), golden("gmm2d/cov"))
    x0 = golden("gmm2d/sobol_x0")
    x1 = flow.flow_map(x0, tolerance=1e-8)
    assert_close(x1, golden("gmm2d/sobol_x1"), rtol=0, atol=1e-5)
    rectified = transport_cost(x0, x1)
    assert_close(rectified, golden("gmm2d/cost_rectified_on_sobol"), rtol=1e-6, atol=0)
    matrix = torch.cdist(x0, x1).square()
    rows, columns = linear_sum_assignment(matrix.numpy())
    optimal = matrix[rows, columns].mean()
    assert_close(optimal, golden("gmm2d/cost_ot_on_sobol"), rtol=1e-6, atol=0)
    assert golden("gmm2d/cost_independent") >= rectified >= optimal


def test_first_order_defect_sees_first_order_paths_of_every_shape() -> None:
    """Pairs x1 = mean + scale x0 on any affine path: the field below never loses x0."""
    mean, scale = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 3.0]).double()
    x0 = sigma_points(2)
    for path in (Linear(), Trigonometric(), VariancePreserving()):

        def paired(x: torch.Tensor, t: float, path=path) -> torch.Tensor:
            a, b, da, db = path.coeffs(t)
            noise = (x - a * mean) / (b + a * scale)
            return da * (mean + scale * noise) + db * noise

        grid = uniform(100, 0.0, 0.99)
        a, b = path.coeffs(0.0)[:2]
        start = a * (mean + scale * x0) + b * x0
        defect = first_order_defect(paired, path, start, grid=grid).total
        drift = (start - x0).square().sum(1).mean()
        assert defect < drift + 1e-9
        assert straightness(paired, start, grid=grid).total > (1e-2 if path != Linear() else -1)
    flow = diagonal()
    assert first_order_defect(flow.velocity, Linear(), sigma_points(5)).total > 0.1


def test_first_order_defect_is_weighted_straightness_on_the_linear_path() -> None:
    """x0_hat - x0 = x_t - x0 - t v; for v = 2t it is t² - 2t² = -t², so Q = 1/5 per dimension."""
    x0 = randn(3, 2)
    field = lambda x, t: torch.full_like(x, 2 * t)  # noqa: E731
    assert_close(first_order_defect(field, Linear(), x0).total, torch.tensor(0.4).double())


def test_golden_gauge_field() -> None:
    x = golden("gauge/x")
    assert_close(gauge_field(x, 0), golden("gauge/r"))
    assert_close(gauge_score(x, 0), golden("gauge/score"))
    residual = gauge_residual(gauge_field, gauge_score, x, 0.5)
    assert_close(residual, golden("gauge/condition"), rtol=0, atol=1e-9)
    bent = gauge_residual(lambda x, t: gauge_field(x, t) + 0.1 * x, gauge_score, x, 0.5)
    along = (x * gauge_score(x, 0)).sum(1)
    assert_close(bent, 0.1 * (3 + along))


def test_gauge_residual_by_probes() -> None:
    x = golden("gauge/x")
    generator = torch.Generator().manual_seed(0)
    residual = gauge_residual(
        gauge_field, gauge_score, x, 0.5, divergence=Hutchinson(20_000), generator=generator
    )
    assert residual.abs().max() < 0.1


def test_golden_asymmetry() -> None:
    x = golden("gauge/x").repeat(1000, 1)
    generator = torch.Generator().manual_seed(0)

    def field(x: torch.Tensor, t: object) -> torch.Tensor:
        return gauge_score(x, t) + gauge_field(x, t)

    found = asymmetry(field, x, 0.5, n_probes=4, generator=generator)
    assert found.item() == pytest.approx(float(golden("gauge/asymmetry")), rel=0.02)
    assert asymmetry(gauge_score, x, 0.5, generator=generator) < 1e-20
    turn = torch.tensor([[0.0, -1], [1, 0]]).double()
    assert_close(asymmetry(lambda x, t: x @ turn, randn(4, 2), 0.5).item(), 4.0)


def test_gauge_freedom_keeps_the_marginals() -> None:
    """Acceptance 12: (1 - t) C_t S x added to a Gaussian's velocity moves points, not laws."""
    cov = golden("gauge/cov")
    flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 3), cov[None])
    skew, x0 = golden("gauge/skew"), sigma_points(3)

    def turned(x: torch.Tensor, t: float) -> torch.Tensor:
        at_t = t**2 * cov + (1 - t) ** 2 * torch.eye(3)
        return flow.velocity(x, t) + (1 - t) * x @ (at_t @ skew).T

    plain = trajectory(flow.velocity, x0, uniform(200))[-1]
    moved = trajectory(turned, x0, uniform(200))[-1]
    assert (plain - moved).abs().max() > 0.1
    for x1 in (plain, moved):
        assert_close(x1.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
        assert_close(x1.T @ x1 / len(x1), cov, rtol=0, atol=1e-6)
    assert asymmetry(turned, x0, 0.3, generator=torch.Generator().manual_seed(0)) > 0.1


def test_golden_intrinsic_dimension() -> None:
    """Data on a plane in four dimensions: two directions survive."""
    times = GOLDEN["idim/t"].tolist()
    data = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 4), data[None])
    grid = sorted({*uniform(120, 0.0, 0.99), *(t for t in times if t <= 0.99)})
    values = flow_jacobian_svd(flow.velocity, randn(3, 4), grid=grid)
    assert values.shape == (len(grid), 3, 4)
    for t, on, off in zip(times, golden("idim/sv_on"), golden("idim/sv_off"), strict=True):
        if t <= 0.99:
            found = values[grid.index(t)]
            assert_close(found[:, :2], on.expand(3, 2), rtol=1e-6, atol=1e-7)
            assert_close(found[:, 2:], off.expand(3, 2), rtol=1e-6, atol=1e-7)
    assert ((values[-1] > 0.5).sum(-1) == 2).all()


def test_the_dimension_of_a_known_manifold() -> None:
    """Data on a plane in five dimensions: exactly, by probes, and blurred."""
    flow = GaussianMixtureFlow(
        torch.ones(1), torch.zeros(1, 5), torch.diag(torch.tensor([1.0, 1.0, 0, 0, 0]))[None]
    )
    plane = torch.cat([randn(6, 2), torch.zeros(6, 3)], 1).double()
    found = intrinsic_dimension(flow.velocity, Linear(), plane, 0.99)
    assert_close(found, torch.full((6,), 2.0).double(), rtol=0, atol=3e-3)
    generator = torch.Generator().manual_seed(0)
    told = {"divergence": Hutchinson(8), "generator": generator}
    guessed = intrinsic_dimension(flow.velocity, Linear(), plane, 0.99, **told)
    assert_close(guessed, found, rtol=0, atol=0.05)
    whole = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 5), torch.eye(5)[None])
    assert intrinsic_dimension(whole.velocity, Linear(), plane, 0.99).min() > 4.99
    off = intrinsic_dimension(flow.velocity, Linear(), plane + 0.5, 0.99)
    assert off.min() > 100  # far from the data it is none
    with pytest.raises(ValueError, match="inside of"):
        intrinsic_dimension(flow.velocity, Linear(), plane, 1.0)


def test_the_turned_score_is_a_gauge() -> None:
    """Added to a Gaussian's velocity it moves points, not laws; of a rotating field it is none."""
    cov = golden("gauge/cov")
    flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 3), cov[None])
    x0, grid = sigma_points(3), uniform(100, 0.0, 0.9)
    w = score_gauge(flow.velocity, Linear(), torch.Generator().manual_seed(0))
    exact = score(flow.velocity, Linear())
    assert gauge_residual(w, exact, x0, 0.5).abs().max() < 1e-9
    moved = trajectory(lambda x, t: flow.velocity(x, t) + 0.3 * w(x, t), x0, grid)[-1]
    plain = trajectory(flow.velocity, x0, grid)[-1]
    assert (moved - plain).abs().max() > 0.1
    assert_close(moved.T @ moved, plain.T @ plain, rtol=1e-6, atol=1e-6)
    turn = golden("gauge/skew")
    bent = lambda x, t: flow.velocity(x, t) + x @ turn.T  # noqa: E731
    own = score(bent, Linear())
    other = score_gauge(bent, Linear(), torch.Generator().manual_seed(0))
    assert gauge_residual(other, own, x0, 0.5).abs().max() > 0.1


def test_jacobian_of_a_nonlinear_flow_on_images() -> None:
    """Against the difference quotient of the flow map itself."""
    x0 = randn(2, 1, 2) / 2

    def field(x: torch.Tensor, t: float) -> torch.Tensor:
        return torch.sin(x.flip(-1)) * (1 + t) + 0.3 * x**2

    def end(x: torch.Tensor) -> torch.Tensor:
        return trajectory(field, x, uniform(50))[-1]

    values = flow_jacobian_svd(field, x0, grid=uniform(50))[-1]
    h = 1e-5
    columns = [(end(x0 + h * e) - end(x0 - h * e)) / (2 * h) for e in torch.eye(2).double()]
    dense = torch.stack([c.flatten(1) for c in columns], -1)
    assert_close(values, torch.linalg.svdvals(dense), rtol=1e-6, atol=1e-7)


def test_named_parts_where_they_make_sense_and_errors_where_not() -> None:
    x0 = {"a": torch.zeros(2, 3), "b": torch.zeros(2)}
    out = straightness(lambda x, t: {k: torch.full_like(p, 2 * t) for k, p in x.items()}, x0)
    assert out.total.item() == pytest.approx(4 / 3)
    with pytest.raises(TypeError, match=r"states of one tensor, got parts \['a'\]"):
        asymmetry(lambda x, t: {"a": x}, torch.zeros(2, 3), 0.5)
    with pytest.raises(ValueError, match="n_probes must be at least 1"):
        asymmetry(lambda x, t: x, torch.zeros(2, 3), 0.5, n_probes=0)


def test_a_basis_of_what_has_no_mean():
    basis = zero_mean_basis(5)
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=basis.dtype))
    assert basis.sum(0).abs().max() < 1e-12
    with pytest.raises(ValueError, match="at least 2 numbers, got 1"):
        zero_mean_basis(1)
