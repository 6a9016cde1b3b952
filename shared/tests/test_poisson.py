"""PFGM++ as a source: its kernel, its limit, its denoiser and its sampler."""

import math

import numpy as np
import pytest
import torch
from rectiflow.fields import bind
from rectiflow.flow import Flow
from rectiflow.grids import karras
from rectiflow.integrate import integrate, plan
from rectiflow.poisson import StudentT, posterior_mean
from rectiflow.predictions import Data
from rectiflow.solvers import Heun
from rectiflow.sources import NORMAL
from rectiflow.time_density import Edm

INF = math.inf


@pytest.mark.parametrize("case", ["N2_D1", "N2_D128", "N3072_D128", "N3072_D2048", "N12288_D128"])
def test_the_kernel_has_its_density_and_quantiles(golden, case):
    table = np.load(golden("core_analytic.npz"))
    n, d = (int(part[1:]) for part in case.split("_"))
    radii = torch.as_tensor(table[f"pfgmpp/{case}/R_quantile"]).double()
    x = torch.zeros(len(radii), n).double()
    x[:, 0] = radii
    shell = math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)
    density = StudentT(d).log_prob(x) + shell + (n - 1) * radii.log()
    wanted = torch.as_tensor(table[f"pfgmpp/{case}/R_logpdf"]).double()
    assert torch.allclose(density, wanted, atol=1e-6)
    count = 20_000 if n == 2 else 1000
    drawn = StudentT(d).sample((count, n), generator=torch.Generator().manual_seed(0))
    below = (drawn.norm(dim=1)[:, None] < radii).double().mean(0)
    levels = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99]).double()
    assert ((below - levels).abs() < 5 * (levels * (1 - levels) / count).sqrt()).all()


def test_many_dimensions_are_edm():
    x = torch.zeros(64, 3, 4).double()

    def noise(source):
        return source.sample_like(x, generator=torch.Generator().manual_seed(1))

    normal = noise(NORMAL)
    assert torch.equal(noise(StudentT(INF)), normal)
    assert torch.allclose(noise(StudentT(1e11)), normal, rtol=1e-5)
    points = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(StudentT(1e7).log_prob(points), NORMAL.log_prob(points), atol=1e-5)


def test_denoisers_over_a_finite_set(golden):
    table = np.load(golden("core_analytic.npz"))
    data, x = (torch.as_tensor(table[f"pfgmpp/{k}"]).double() for k in ("data", "x"))
    for sigma in (0.3, 1, 4):
        for d in (1, 2, 128, 2048, 1_000_000, INF):
            t = torch.full((len(x),), 1 / (1 + sigma)).double()
            found = posterior_mean(x / (1 + sigma), t, data, StudentT(d))
            name = "inf" if d == INF else d
            wanted = torch.as_tensor(table[f"pfgmpp/denoiser/sigma{sigma}_D{name}"]).double()
            assert torch.allclose(found, wanted, atol=1e-9), (sigma, d)


def test_the_sampler_approaches_edms():
    """The same directions, EDM's 18 times: the ends on a finite set agree."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(6, 3, generator=generator).double()

    def ends(dimensions):
        source = StudentT(dimensions)
        flow = Flow(source=source, prediction=Data(), density=Edm())
        field = flow.velocity(lambda x, t: posterior_mean(x, t, data, source))
        times = [t for t in karras(18) if t < 1]
        seeds = torch.Generator().manual_seed(2)
        x0 = source.sample_like(torch.zeros(8, 3).double(), generator=seeds)
        return integrate(field, (1 - times[0]) * x0, plan(times, Heun()))

    assert (ends(1e7) - ends(INF)).abs().max() < 1e-2
    assert (ends(2.0) - ends(INF)).abs().max() > 1e-2


def test_training_regresses_the_denoiser():
    """With two data points, the best constant answer far out is their posterior mean."""
    source, points = StudentT(4.0), torch.tensor([[-1.0], [1.0]]).double()
    flow = Flow(source=source, prediction=Data())
    n = 4000
    x1 = points.repeat(n // 2, 1)
    t = torch.full((n,), 0.5).double()
    model = bind(lambda x, t: posterior_mean(x, t, points, source))
    told = {"t": t, "generator": torch.Generator().manual_seed(0)}
    out = flow.loss(lambda x, t: model(x, t), x1, **told)
    for shift in (0.1, -0.1):
        told["generator"] = torch.Generator().manual_seed(0)
        near = flow.loss(lambda x, t, s=shift: model(x, t) + s * x.tanh(), x1, **told)
        assert near.loss > out.loss


def test_the_cut_and_what_is_refused():
    radius = StudentT(1.0, clip=1e-3).sample((4000, 2), generator=torch.Generator()).norm(dim=1)
    share = radius**2 / (radius**2 + 1)
    assert share.min() >= 1e-3 * 0.99
    assert share.max() <= 1 - 1e-3 * 0.99
    with pytest.raises(ValueError, match="must be positive, got 0"):
        StudentT(0.0)
    with pytest.raises(ValueError, match="clip must lie"):
        StudentT(1.0, clip=0.6)
