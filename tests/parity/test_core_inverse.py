"""Every number of core_inverse.npz: inverse problems on a Gaussian, and schedules."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow import GaussianMixtureFlow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse import (
    MRS,
    Clocks,
    DataConsistency,
    Gaussian,
    Mask,
    Matrix,
    MeanReverting,
    Measurement,
    Plain,
    Projection,
    TotalVariation,
    red_diff,
)
from rectiflow.predictions import Data, Noise
from rectiflow.solvers import RK4, Ancestral, Euler
from rectiflow.steering import Steer

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
A = {name: torch.from_numpy(a) for name, a in np.load(GOLDEN / "core_inverse.npz").items()}
PRIOR = GaussianMixtureFlow(torch.ones(1), A["m"][None], A["C"][None])
DENSE = Measurement(Matrix(A["A"]), A["y"][None], Gaussian(float(A["sigma_y"])))
EXACT = Measurement(Matrix(A["A"]), A["y"][None])
MASKED = Measurement(Mask(A["mask"]), (A["mask"] * A["y_mask"])[None])


def close(found, key, rtol=1e-9, atol=1e-10):
    torch.testing.assert_close(torch.as_tensor(found), A[key], rtol=rtol, atol=atol)


def test_the_prior_and_its_posterior():
    close(PRIOR.flow_map(A["x0"]), "exact_unguided", atol=1e-8)
    gain = A["C"] @ A["A"].T
    gain = gain @ torch.linalg.inv(
        A["A"] @ A["C"] @ A["A"].T + A["sigma_y"] ** 2 * torch.eye(3).double()
    )
    close(A["m"] + gain @ (A["y"] - A["A"] @ A["m"]), "posterior_mean")
    close(A["C"] - gain @ A["A"] @ A["C"], "posterior_cov")
    assert DENSE.operator.norm(A["x0"]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("key", [k for k in A if k.startswith("flowchef")])
def test_flowchef(key):
    name, steps = re.match(r"flowchef_(.*)_N(\d+)", key).groups()
    if name == "projection":
        correct = Projection(EXACT)
    else:
        kind, eta, inner = re.match(r"(\w+)_eta(.*)_it(\d)", name).groups()
        towards = DENSE if kind == "dense" else MASKED
        correct = DataConsistency(towards, float(eta), int(inner))
    moves = plan(uniform(int(steps)), Steer(Euler(), correct))
    close(integrate(PRIOR, A["x0"], moves), key)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_red_diff(kind):
    times, noise = A["reddiff_t"].tolist(), A["reddiff_eps"][:, None]
    start = DENSE.operator.pinv(DENSE.y)
    told = {"descent": Plain(0.1)} if kind == "sgd" else {}
    close(red_diff(PRIOR, DENSE, start, times, noise=noise, **told)[0], f"reddiff_{kind}")


def test_red_diff_stationary_point():
    """From there the steps at all times cancel; noise of zero is its average, D being affine."""
    mu = A["reddiff_stationary"][None]
    told = {"noise": [torch.zeros_like(mu)], "descent": Plain(1.0)}
    moves = [red_diff(PRIOR, DENSE, mu, [t], **told) - mu for t in A["reddiff_t"].tolist()]
    assert max(move.abs().max() for move in moves) > 1e-2
    assert torch.stack(moves).mean(0).abs().max() < 1e-9


@pytest.mark.parametrize("square", [0.0, 0.01])
def test_pmrf(square):
    eye = torch.eye(6, dtype=torch.float64)
    cov = A["C"]
    estimate = cov @ torch.linalg.inv(cov + 0.49 * eye) @ cov
    start = estimate + square * eye
    linear = _joint_flow(start, cov, estimate)
    found = integrate(linear, eye, plan(uniform(300), RK4())).T
    close(found, f"pmrf_map_s2_{square}", atol=1e-8)
    mse = (cov + found @ start @ found.T - 2 * found @ estimate).trace()
    close(mse, f"pmrf_mse_s2_{square}", atol=1e-7)
    close(2 * (cov - estimate).trace(), "pmrf_posterior_sampling_mse")
    close((cov - estimate).trace(), "pmrf_mmse")


def _joint_flow(start, end, cross):
    """The velocity E[x - z | z_t] of a joint Gaussian, for rows."""

    def field(x, t):
        both = (1 - t) ** 2 * start + t**2 * end + 2 * t * (1 - t) * cross
        rate = t * (end - cross) - (1 - t) * (start - cross)
        return x @ torch.linalg.solve(both, rate.T)

    return field


def test_total_variation():
    told = {"axis": 0, "lam": float(A["tv_lam"]), "rho": float(A["tv_rho"]), "inner": 500}
    between = TotalVariation(Measurement(Matrix(A["tv_B"]), A["tv_Y"]), **told)
    zeros = torch.zeros_like(A["tv_x3"])
    split = between.solve(zeros, 3)
    for name in ("x", "z", "u"):
        close(getattr(split, name), f"tv_{name}3")
    x = between.solve(zeros, 600).x
    close(x, "tv_solution", atol=1e-7)
    jumps = (x.roll(-1, 0) - x).abs().sum()
    misfit = (x @ A["tv_B"].T - A["tv_Y"]).square().sum() / 2
    close(misfit + A["tv_lam"] * jumps, "tv_objective", atol=1e-7)


MRS_PARAMS = dict(
    zip(("sigma", "m", "c", "mu", "start", "end"), A["mrs_params"].tolist(), strict=True)
)


def _mean_reverting():
    p = MRS_PARAMS
    path = MeanReverting(p["sigma"], p["start"])
    m, c = p["m"] - p["mu"], p["c"]

    def field(y, t):
        a, b, da, db = path.coeffs(t)
        spread = a * a * c + b * b
        return da * m + (a * da * c + b * db) / spread * (y - a * m)

    return path, field, 1 - p["end"] / p["start"]


@pytest.mark.parametrize("key", [k for k in A if re.match(r"mrs_(data|noise)", k)])
def test_mrs(key):
    kind, order, k, steps = re.match(r"mrs_(\w+)_(\d)_k(\d)_N(\d+)", key).groups()
    path, field, stop = _mean_reverting()
    lams = np.linspace(path.lam(0.0), path.lam(stop), int(steps) + 1)
    times = [0.0, *(path.t_of_lam(lam) for lam in lams[1:-1].tolist()), stop]
    predict = Data() if kind == "data" else Noise()
    solver = MRS(int(order), path, predict, curvature=float(k))
    mu = MRS_PARAMS["mu"]
    x = mu + integrate(field, A["mrs_x"] - mu, plan(times, solver))
    close(x, key)


def test_mrs_exact():
    p = MRS_PARAMS
    path, _, stop = _mean_reverting()

    def law(t):
        a, b, *_ = path.coeffs(t)
        return p["mu"] + a * (p["m"] - p["mu"]), math.sqrt(a * a * p["c"] + b * b)

    (m0, s0), (m1, s1) = law(0.0), law(stop)
    close(m1 + s1 / s0 * (A["mrs_x"] - m0), "mrs_exact")


def test_rddm_clocks():
    clocks = Clocks.of_training()
    index = [999 - i for i in (0, 99, 499, 999)]
    close(torch.tensor(clocks.shares, dtype=torch.float64)[index], "rddm_A")
    close(torch.tensor(clocks.levels, dtype=torch.float64)[index], "rddm_Bt")


def test_ancestral_noise():
    path = Ancestral().path
    found = [
        path.coeffs(t).b * math.sqrt(-math.expm1(2 * (path.lam(s) - path.lam(t))))
        for s, t in A["ancestral_st"].tolist()
    ]
    close(torch.tensor(found, dtype=torch.float64), "ancestral_sd")
