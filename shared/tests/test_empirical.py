"""DPM-Solver-v3: exact on normal data, of its order on a mixture, and stored."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import counted
from rectiflow.grids import log_snr, uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import (
    DDIM,
    RK4,
    Context,
    DPMSolverPP2M,
    DPMSolverV3,
    EmpiricalStatistics,
    estimate_statistics,
)

A, B = 0.02, 0.98
MEAN = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
VARIANCE = torch.tensor([0.09, 0.6], dtype=torch.float64)


@pytest.fixture(scope="module")
def normal():
    return GaussianMixtureFlow(torch.ones(1).double(), MEAN, torch.diag(VARIANCE)[None])


def known_statistics(points):
    """The statistics of normal data: E is affine, and f does not depend on x."""
    lam = torch.linspace(math.log(A / (1 - A)), math.log(B / (1 - B)), points).double()
    lam[0], lam[-1] = math.log(A / (1 - A)), math.log(B / (1 - B))
    ratio = (-2 * lam).exp()[:, None]  # (sigma / alpha)²
    linear = ratio / (ratio + VARIANCE)
    drift = 2 * ratio * VARIANCE / (ratio + VARIANCE) ** 2 * MEAN
    return EmpiricalStatistics(lam, linear, torch.zeros_like(linear), drift)


def test_one_step_is_exact_on_normal_data(normal):
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(5)).double()
    exact = normal.flow_map(x0, A, B)
    errors = {
        name: float((integrate(normal.velocity, x0, plan([A, B], solver)) - exact).abs().max())
        for name, solver in (
            ("v3", DPMSolverV3(known_statistics(20_000), 1, correct=False)),
            ("ddim", DDIM()),
        )
    }
    assert errors["v3"] < 1e-7
    assert errors["ddim"] > 0.1
    statistics = known_statistics(20_000)
    some = integrate(normal.velocity, x0, plan([A, 0.3, 0.7], DPMSolverV3(statistics)))
    assert (some - normal.flow_map(x0, A, 0.7)).abs().max() < 1e-7
    back = integrate(normal.velocity, exact, plan([B, A], DPMSolverV3(statistics, 1)))
    assert (back - x0).abs().max() < 1e-5


def test_statistics_of_normal_data_are_estimated(normal):
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(256, 2, generator=generator).double()
    found = estimate_statistics(normal.velocity, x0, points=400, generator=generator)
    true = known_statistics(401)
    assert torch.allclose(found.linear, true.linear, atol=1e-9)  # the Jacobian is diagonal
    assert found.slope.abs().max() < 1e-12
    assert torch.allclose(found.shift[2:-2], true.shift[2:-2], atol=1e-3)
    begin = torch.randn(64, 2, generator=generator).double()
    end = integrate(normal.velocity, begin, plan([A, B], DPMSolverV3(found, 1)))
    assert (end - normal.flow_map(begin, A, B)).abs().max() < 1e-3


@pytest.fixture(scope="module")
def mixture():
    def turned(angle, a, b):
        r = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return r @ torch.diag(torch.tensor([a * a, b * b])) @ r.T

    covs = torch.stack((turned(0.3, 0.9, 0.7), turned(-0.6, 0.8, 0.6)))
    means = torch.tensor([[0.8, 0.0], [-0.6, 0.5]])
    flow = GaussianMixtureFlow(torch.tensor([0.6, 0.4]), means, covs).double()
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(256, 2, generator=generator).double()
    return flow, estimate_statistics(flow.velocity, x0, points=2000, generator=generator)


def test_orders_on_a_mixture(mixture):
    flow, statistics = mixture
    x0 = torch.randn(64, 2, generator=torch.Generator().manual_seed(5)).double()
    exact = flow.flow_map(x0, A, B)

    def error(solver, steps):
        field = counted(flow.velocity)
        end = integrate(field, x0, plan(log_snr(steps, A, B), solver))
        assert field.calls == steps
        return float((end - exact).square().mean().sqrt())

    found = {}
    for name, solver, order in (
        ("1", DPMSolverV3(statistics, 1, correct=False), 1),
        ("2", DPMSolverV3(statistics, 2, correct=False), 2),
        ("2 corrected", DPMSolverV3(statistics, 2), 2),
        ("3", DPMSolverV3(statistics, 3, correct=False), 3),
        ("3 corrected", DPMSolverV3(statistics, 3), 3),
    ):
        errors = [error(solver, n) for n in (12, 24, 48)]
        found[name] = [round(math.log2(a / b), 2) for a, b in itertools.pairwise(errors)] + errors
        assert max(found[name][:2]) > order - 0.4, found
    # What it is for: few steps.
    assert error(DPMSolverV3(statistics, 2), 6) < error(DPMSolverPP2M(), 6)


def test_pooled_statistics_fit_any_size_and_are_stored(normal, tmp_path):
    def field(x, t):
        return normal.velocity(x.movedim(1, -1), t).movedim(-1, 1)

    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(16, 2, 5, generator=generator).double()
    found = estimate_statistics(field, x0, points=60, pooled=True, generator=generator)
    assert found.linear.shape == (61, 2, 1)
    found.save(tmp_path, solver="any")
    again = EmpiricalStatistics.load(tmp_path)
    assert repr(again) == repr(found)
    wide = torch.randn(3, 2, 9, generator=generator).double()
    times = [0.0, *log_snr(3, 0.1, 0.9), 1.0]  # the ends lie outside of the table
    end = integrate(field, wide, plan(times, DPMSolverV3.load(tmp_path)))
    true = integrate(field, wide, plan(uniform(100), RK4()))
    assert (end - true).square().mean().sqrt() < 0.1
    with pytest.raises(FileNotFoundError, match="no statistics lie beside these weights"):
        DPMSolverV3.load(tmp_path / "other")


def test_what_it_cannot_move_is_refused(normal):
    solver = DPMSolverV3(known_statistics(50))
    rows = torch.tensor([0.1, 0.2]).double()
    with pytest.raises(ValueError, match="times per row"):
        solver.step(normal.velocity, torch.zeros(2, 2).double(), rows, rows + 0.1, Context())
    with pytest.raises(ValueError, match="terms must be 1 to 4"):
        DPMSolverV3(known_statistics(50), 5)
    with pytest.raises(ValueError, match="share one table"):
        EmpiricalStatistics(torch.zeros(3), *(torch.zeros(2, 1),) * 3)
