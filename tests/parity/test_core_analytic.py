"""Golden values of the core: every ``core_analytic*`` file, group by group.

Groups are found by their keys, so that another file of the same form, in ``tests/golden`` or in the
folder named by ``RECTIFLOW_GOLDEN``, is checked by the same code.
"""

from __future__ import annotations

import math
import os
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch
from rectiflow.analytic import FiniteDataFlow, GaussianMixtureFlow
from rectiflow.couplings import (
    CosineAnnealing,
    ExponentialAnnealing,
    LinearAnnealing,
    MinibatchOT,
)
from rectiflow.diagnostics import (
    flow_jacobian_svd,
    gauge_residual,
    straightness,
    trajectory,
    transport_cost,
)
from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.integrate import plan
from rectiflow.interpolants import Brownian, Gamma, Interpolant, Quadratic, SineSquared
from rectiflow.likelihood import log_likelihood
from rectiflow.paths import Linear, LinearVP, Path, Polynomial, Trigonometric, VariancePreserving
from rectiflow.predictions import Data, Noise, Prediction, Score
from rectiflow.premetrics import ElementwiseHuber, MeanSquared, PseudoHuber, RootMeanSquared
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.spaces import Rotations
from rectiflow.time_density import (
    CosMap,
    LogitNormal,
    Mode,
    UShaped,
    diffusers_schedule,
    dynamic_shift,
    sd3_shift,
)
from torch.testing import assert_close

PATHS: dict[str, Path] = {
    "linear": Linear(),
    "trig": Trigonometric(),
    "vp": VariancePreserving(0.1, 20.0),
    "poly2": Polynomial(2),
    "linearvp": LinearVP(),
}
EXACT = {"rtol": 1e-9, "atol": 1e-11}
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def golden_files() -> list[FilePath]:
    folders = [FilePath(__file__).resolve().parents[1] / "golden"]
    if extra := os.environ.get("RECTIFLOW_GOLDEN"):
        folders.append(FilePath(extra))
    return sorted({file for folder in folders for file in folder.glob("core_analytic*.npz")})


class Golden:
    """One file; keys are read as float64 tensors."""

    def __init__(self, file: FilePath) -> None:
        with np.load(file) as stored:
            self.arrays = {key: stored[key] for key in stored.files}

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def number(self, key: str) -> float:
        return float(self.arrays[key])

    def under(self, prefix: str) -> list[str]:
        """Names one level below a prefix."""
        return sorted({k[len(prefix) :].split("/")[0] for k in self.arrays if k.startswith(prefix)})

    def mixture(self, tag: str, path: Path | None = None) -> GaussianMixtureFlow:
        source = {
            key: self[f"{tag}/{key}"]
            for key in ("source_mean", "source_cov")
            if f"{tag}/{key}" in self
        }
        mean, cov = self[f"{tag}/mean"], self[f"{tag}/cov"]
        return GaussianMixtureFlow(self[f"{tag}/w"], mean, cov, path=path, **source)

    @property
    def mixtures(self) -> list[str]:
        return [tag for tag in self.under("") if f"{tag}/linear/v" in self]


@pytest.fixture(scope="module", params=golden_files(), ids=lambda file: file.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


def test_there_is_something_to_check() -> None:
    files = golden_files()
    assert files
    assert {"gauss3d", "gmm2d", "gmm5d", "gmm2d_src"} <= set(Golden(files[0]).mixtures)


@pytest.mark.parametrize("name", PATHS)
def test_mixture_fields(golden: Golden, name: str) -> None:
    """Acceptance 1: 1e-9 in float64; float32 inputs within 1e-4."""
    fields = {
        "v": "velocity",
        "score": "score",
        "ex1": "data",
        "ex0": "noise",
        "div": "divergence",
        "jac": "jacobian",
        "logp": "log_prob",
    }
    for tag in golden.mixtures:
        flow = golden.mixture(tag, PATHS[name])
        x = golden[f"{tag}/x"]
        t = golden[f"{tag}/t" if name == "linear" else f"{tag}/t_interior"]
        checked = [key for key in fields if f"{tag}/{name}/{key}" in golden]
        assert {"v", "score", "ex1", "ex0", "div"} <= set(checked)
        for key in checked:
            method, expected = getattr(flow, fields[key]), golden[f"{tag}/{name}/{key}"]
            assert_close(method(x, t), expected, **EXACT)
            found = method(x.float(), t)
            assert found.dtype == torch.float32
            scale = expected.abs().max().clamp(min=1)
            assert_close(found.double() / scale, expected / scale, **SINGLE)


def test_mixture_flow_maps(golden: Golden) -> None:
    for tag in golden.mixtures:
        x1 = golden.mixture(tag).flow_map(golden[f"{tag}/ode_x0"])
        assert_close(x1, golden[f"{tag}/ode_x1"], rtol=0, atol=1e-8)


def test_mixture_likelihoods(golden: Golden) -> None:
    """Acceptance 9: 1e-3 by integration, 1e-9 in closed form."""
    for tag in golden.mixtures:
        flow, x1 = golden.mixture(tag), golden[f"{tag}/lik_x1"]
        expected = golden[f"{tag}/lik_logp1"]
        assert_close(flow.log_prob(x1), expected, **EXACT)

        def source(x: torch.Tensor, flow: GaussianMixtureFlow = flow) -> torch.Tensor:
            return flow.log_prob(x, 0.0)

        out = log_likelihood(flow.velocity, x1, source, plan(uniform(50), RK4()))
        assert_close(out.log_prob, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", PATHS)
def test_conversions(golden: Golden, name: str) -> None:
    path, linear = PATHS[name], Linear()
    t, x, v = (golden[f"convert/{key}"] for key in "txv")
    expected = {key: golden[f"convert/{name}/{key}"] for key in golden.under(f"convert/{name}/")}
    data, noise = path.data(v, x, t), path.noise(v, x, t)
    assert_close(data, expected["x1"], **EXACT)
    assert_close(noise, expected["x0"], **EXACT)
    assert_close(path.score(v, x, t), expected["score"], **EXACT)
    tau = linear.t_of_lam(path.lam(t))
    assert_close(tau, expected["tau_linear"], **EXACT)
    a, b, _, _ = path.coeffs(t)
    assert_close(1 / (a + b), expected["scale_linear"], **EXACT)
    assert_close(data - noise, expected["v_linear"], **EXACT)
    said: dict[Prediction, torch.Tensor] = {
        Data(): expected["x1"],
        Noise(): expected["x0"],
        Score(): expected["score"],
    }
    for prediction, value in said.items():
        assert_close(prediction.velocity(value, x, t, path), v, rtol=1e-8, atol=1e-9)


GAMMAS: dict[str, Gamma | None] = {
    "brownian": Brownian(),
    "quadratic": Quadratic(),
    "sin2": SineSquared(),
    "zero": None,
}


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("name", ["linear", "trig"])
def test_interpolant_fields(golden: Golden, name: str, gamma: str) -> None:
    """Acceptance 1 between two mixtures: all pairs of their components, independently."""
    w0, w1, t, x = (golden[f"si/{key}"] for key in ("w0", "w1", "t", "x"))
    mean0, cov0, mean1, cov1 = (golden[f"si/{key}"] for key in ("mean0", "cov0", "mean1", "cov1"))
    size0, size1 = len(w0), len(w1)
    level, expected = GAMMAS[gamma], f"si/{name}_{gamma}/"
    path = PATHS[name]
    flow = GaussianMixtureFlow(
        torch.outer(w0, w1).flatten(),
        mean1.repeat(size0, 1),
        cov1.repeat(size0, 1, 1),
        path=path if level is None else Interpolant(path, level),
        source_mean=mean0.repeat_interleave(size1, 0),
        source_cov=cov0.repeat_interleave(size1, 0),
    )
    assert_close(flow.log_prob(x, t), golden[f"{expected}logp"], **EXACT)
    assert_close(flow.score(x, t), golden[f"{expected}score"], **EXACT)
    assert_close(flow.velocity(x, t), golden[f"{expected}b"], **EXACT)
    if level is not None:
        interpolant = Interpolant(path, level)
        eta = flow.denoiser(x, t)
        assert_close(eta, golden[f"{expected}eta_z"], **EXACT)
        assert_close(interpolant.score(eta, t), golden[f"{expected}score"], **EXACT)
        drift = golden[f"{expected}v"]
        assert_close(interpolant.velocity(drift, eta, t), golden[f"{expected}b"], **EXACT)


def test_equivalent_times_of_a_discrete_schedule(golden: Golden) -> None:
    ratio = 1 / golden["sd15/nsr"]
    assert_close(Linear().t_of_lam(ratio.log()), golden["sd15/tau_linear"], **EXACT)


def test_gaussian_straightness_cost_and_loss_floor(golden: Golden) -> None:
    """Acceptance 6, with exact expectations by sigma points: all integrands are quadratic."""
    mean, variance = golden["diag/mu"], golden["diag/s"]
    dim = len(mean)
    flow = GaussianMixtureFlow(torch.ones(1), mean[None], torch.diag(variance)[None])
    axes = math.sqrt(dim) * torch.eye(dim, dtype=torch.float64)
    x0 = torch.cat([axes, -axes])
    out = straightness(flow.velocity, x0, grid=uniform(200))
    assert_close(out.total, golden["diag/straightness_S"], rtol=1e-6, atol=0)
    x1 = trajectory(flow.velocity, x0, uniform(200))[-1]
    assert_close(transport_cost(x0, x1), golden["diag/cost_rectified"], rtol=1e-6, atol=0)
    assert_close(transport_cost(x0, x1), golden["diag/w2_squared"], rtol=1e-6, atol=0)
    assert_close(flow.flow_map(golden["diag/x0"]), golden["diag/exact_x1"], rtol=0, atol=1e-8)

    # The loss of the exact field over independent pairs: sigma points of (x0, x1) together,
    # Gauss-Legendre nodes in time.
    joint = math.sqrt(2 * dim) * torch.eye(2 * dim, dtype=torch.float64)
    joint = torch.cat([joint, -joint])
    noise, data = joint[:, :dim], mean + variance.sqrt() * joint[:, dim:]
    assert_close(transport_cost(noise, data), golden["diag/cost_independent"], rtol=1e-9, atol=0)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    loss = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        t = torch.full((len(joint),), node, dtype=torch.float64)
        loss += weight * dim * Flow().loss(flow, data, x0=noise, t=t).loss.item()
    assert loss == pytest.approx(golden.number("diag/loss_floor_linear"), rel=1e-6)


def test_one_dimensional_flow_is_the_quantile_map(golden: Golden) -> None:
    """Acceptance 5."""
    std = golden["mono1d/std"]
    flow = GaussianMixtureFlow(
        golden["mono1d/w"], golden["mono1d/mean"][:, None], std[:, None, None] ** 2
    )
    x1 = flow.flow_map(golden["mono1d/x0"][:, None])
    assert_close(x1[:, 0], golden["mono1d/x1"], rtol=0, atol=1e-5)


def test_transport_costs_are_ordered(golden: Golden) -> None:
    """Acceptance 7, on the stored end points and on the flow's own."""
    flow, x0 = golden.mixture("gmm2d"), golden["gmm2d/sobol_x0"]
    x1 = flow.flow_map(x0, tolerance=1e-9)
    assert_close(x1, golden["gmm2d/sobol_x1"], rtol=0, atol=1e-6)
    rectified = transport_cost(x0, x1)
    optimal = transport_cost(MinibatchOT().assign(x0, x1), x1)
    assert_close(rectified, golden["gmm2d/cost_rectified_on_sobol"], rtol=1e-6, atol=0)
    assert_close(optimal, golden["gmm2d/cost_ot_on_sobol"], rtol=1e-6, atol=0)
    assert golden["gmm2d/cost_independent"] >= rectified >= optimal
    for key, pair in (("rectified", None), ("ot", MinibatchOT())):
        start, end = golden["si/rf_x0"], golden["si/rf_x1"]
        start = start if pair is None else pair.assign(start, end)
        assert_close(transport_cost(start, end), golden[f"si/rf_cost_{key}"], **EXACT)
    assert golden["si/rf_cost_independent"] >= golden["si/rf_cost_rectified"]
    assert golden["si/rf_cost_rectified"] >= golden["si/rf_cost_ot"]


def test_time_densities(golden: Golden) -> None:
    """Golden values are in noise time, s = 1 - t."""
    s, u = golden["tdens/t"], golden["tdens/u"]
    for key in golden.under("tdens/logitnormal/"):
        density, prefix = LogitNormal(*map(float, key.split("_"))), f"tdens/logitnormal/{key}"
        assert_close(density.log_prob(1 - s).exp(), golden[f"{prefix}/pdf"], **EXACT)
        assert_close(1 - density.icdf(1 - s), golden[f"{prefix}/quantile"], **EXACT)
        cdf = golden[f"{prefix}/cdf"]
        resolved = (cdf > 1e-4) & (cdf < 1 - 1e-4)  # 1 - cdf keeps its digits there
        found = 1 - density.icdf(1 - cdf[resolved])
        assert resolved.sum() > 15
        assert_close(found, s[resolved], **EXACT)
    for key in golden.under("tdens/mode/"):
        density, prefix = Mode(float(key)), f"tdens/mode/{key}"
        assert_close(1 - density.icdf(u), golden[f"{prefix}/f"], **EXACT)
        assert_close(density.log_prob(1 - s).exp(), golden[f"{prefix}/pdf"], **EXACT)
    assert_close(1 - CosMap().icdf(1 - u), golden["tdens/cosmap/f"], **EXACT)
    assert_close(CosMap().log_prob(1 - s).exp(), golden["tdens/cosmap/pdf"], **EXACT)
    for key in golden.under("tdens/ushape/"):
        density, prefix = UShaped(float(key)), f"tdens/ushape/{key}"
        assert_close(density.log_prob(s).exp(), golden[f"{prefix}/pdf"], **EXACT)
        assert_close(density.icdf(s), golden[f"{prefix}/quantile"], **EXACT)
        assert_close(density.icdf(golden[f"{prefix}/cdf"]), s, **EXACT)


def test_time_shifts(golden: Golden) -> None:
    s = golden["tdens/u"]
    for alpha in golden.under("shift/"):
        assert_close(1 - sd3_shift(1 - s, float(alpha)), golden[f"shift/{alpha}"], **EXACT)
    for tokens in golden.under("dynshift/"):
        alpha = dynamic_shift(int(tokens))
        assert math.log(alpha) == pytest.approx(golden.number(f"dynshift/{tokens}/mu"), rel=1e-9)
        expected = golden[f"dynshift/{tokens}/sigma"]
        assert_close(1 - sd3_shift(1 - s[1:], alpha), expected, **EXACT)


def test_diffusers_schedules(golden: Golden) -> None:
    for shift in golden.under("diffusers/flowmatch_euler/"):
        prefix = f"diffusers/flowmatch_euler/{shift}/"
        for steps in golden.under(prefix):
            times = diffusers_schedule(int(steps), float(shift.removeprefix("shift")))
            sigmas = 1 - torch.tensor(times, dtype=torch.float64)
            assert_close(sigmas, golden[f"{prefix}{steps}"], rtol=0, atol=1e-9)


def test_premetrics(golden: Golden) -> None:
    e = golden["premetric/e"]
    costs = {
        "huber_ict": PseudoHuber(),
        "huber_rfpp": PseudoHuber(power=1, mean=True),
        "huber_elementwise_1e-3": ElementwiseHuber(1e-3),
        "mse_mean": MeanSquared(),
        "l2_root_mean": RootMeanSquared(),
    }
    assert set(costs) == set(golden.under("premetric/")) - {"e"}
    for key, cost in costs.items():
        assert_close(cost(e, torch.zeros_like(e)), golden[f"premetric/{key}"], **EXACT)


def test_quaternion_geodesics(golden: Golden) -> None:
    space = Rotations()
    q0, q1, t, expected = (golden[f"quat/{key}"] for key in ("q0", "q1", "t", "slerp"))
    assert_close(space.log(q0, q1), golden["quat/omega_body"], **EXACT)
    assert_close(space.log(q0, q1).norm(dim=1), golden["quat/angle"], **EXACT)
    x_t = space.geodesic(q0, q1, t)
    sign = (x_t * expected).sum(1, keepdim=True).sign()
    assert_close(sign * x_t, expected, **EXACT)


def test_optimal_assignment(golden: Golden) -> None:
    x0, x1, perm = golden["ot/x0"], golden["ot/x1"], golden["ot/perm"]
    paired = MinibatchOT().assign(x0, x1)
    assert torch.equal(paired[perm], x0)
    assert_close(transport_cost(paired, x1), golden["ot/cost_mean"], **EXACT)


def test_gauge_field(golden: Golden) -> None:
    cov, skew, x = (golden[f"gauge/{key}"] for key in ("cov", "skew", "x"))

    def field(x: torch.Tensor, t: object) -> torch.Tensor:
        return x @ (cov @ skew).T

    def score(x: torch.Tensor, t: object) -> torch.Tensor:
        return GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 3), cov[None]).score(x, 1.0)

    assert_close(field(x, 1.0), golden["gauge/r"], **EXACT)
    assert_close(score(x, 1.0), golden["gauge/score"], **EXACT)
    found = gauge_residual(field, score, x, 1.0)
    assert_close(found, golden["gauge/condition"], rtol=0, atol=1e-9)
    jacobian = cov @ skew - torch.linalg.inv(cov)
    gap = (jacobian - jacobian.T).square().sum() / jacobian.square().sum()
    assert_close(gap, golden["gauge/asymmetry"], **EXACT)


def test_intrinsic_dimension(golden: Golden) -> None:
    times = [t for t in golden["idim/t"].tolist() if t < 1]
    data = torch.diag(torch.tensor([1.0, 0.0]))
    flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 2), data[None])
    grid = sorted({*uniform(120, 0.0, max(times)), *times})
    values = flow_jacobian_svd(flow.velocity, torch.ones(1, 2, dtype=torch.float64), grid=grid)
    for index, t in enumerate(times):
        on, off = values[grid.index(t), 0]
        assert on.item() == pytest.approx(golden["idim/sv_on"][index].item(), abs=1e-6)
        assert off.item() == pytest.approx(golden["idim/sv_off"][index].item(), abs=1e-6)


def test_annealing_schedules(golden: Golden) -> None:
    schedules = {"linear": LinearAnnealing, "cos": CosineAnnealing, "exp": ExponentialAnnealing}
    for key, schedule in schedules.items():
        beta = schedule(300_000)
        found = torch.tensor([beta(int(k)) for k in golden["slimflow/step"]], dtype=torch.float64)
        assert_close(found, golden[f"slimflow/beta_{key}"], **EXACT)


def test_gaussian_denoiser_of_a_finite_set(golden: Golden) -> None:
    """The D -> infinity limit of PFGM++: x = y + sigma n, seen on the straight path."""
    flow, x = FiniteDataFlow(golden["pfgmpp/data"]), golden["pfgmpp/x"]
    for key in golden.under("pfgmpp/denoiser/"):
        if key.endswith("_Dinf"):
            sigma = float(key.removeprefix("sigma").removesuffix("_Dinf"))
            found = flow.data(x / (1 + sigma), 1 / (1 + sigma))
            assert_close(found, golden[f"pfgmpp/denoiser/{key}"], **EXACT)
