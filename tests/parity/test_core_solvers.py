"""Every number of core_solvers.npz: solvers, inversion and BDIA on a Gaussian-mixture flow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.grids import log_snr, uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
    PseudoCorrector,
    Solver,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
ARRAYS = {name: torch.from_numpy(a) for name, a in np.load(GOLDEN / "core_solvers.npz").items()}
NOTES = json.loads((GOLDEN / "core_solvers.json").read_text())
DATA = {"w", "m", "C", "x0", "xa", "exact", "exact_b", "field_t", "field_x", "field_v"}
TOLERANCE = 1e-9
T_MIN, T_MAX = 0.02, 0.98

ON_TIME = {
    "euler": Euler(),
    "midpoint": Midpoint(),
    "rf2": Midpoint(),
    "heun": Heun(),
    "rk4": RK4(),
    "fireflow": FireFlow(),
    "pseudo_corrector": PseudoCorrector(),
    "dpmpp_2m_endpoints": DPMSolverPP2M(lower_order_final=False),
}
ON_LOG_SNR = {
    "dpm1": DDIM(),
    "dpm2s": DPMSolver2(),
    "dpm3s": DPMSolver3(),
    "dpmpp2s": DPMSolverPP2S(),
    "dpmpp2m": DPMSolverPP2M(lower_order_final=False),
    "dpmpp3m_code": DPMSolverPP3M(lower_order_final=False, curvature_weight=1.0),
    "dpmpp3m_taylor": DPMSolverPP3M(lower_order_final=False),
}


def velocity(x: torch.Tensor, t: float) -> torch.Tensor:
    """The closed form of the JSON's `convention`, written out here to check ours against."""
    weights, means, covariances = ARRAYS["w"], ARRAYS["m"], ARRAYS["C"]
    eye = torch.eye(2, dtype=x.dtype)
    spread = (1 - t) ** 2 * eye + t**2 * covariances
    offset = x[:, None] - t * means
    whitened = torch.linalg.solve(spread, offset[..., None])[..., 0]
    logits = weights.log() - 0.5 * (spread.logdet() + (offset * whitened).sum(-1))
    parts = means + torch.einsum("kij,bkj->bki", t * covariances - (1 - t) * eye, whitened)
    return (logits.softmax(-1)[..., None] * parts).sum(1)


def solver_on_time(name: str) -> Solver:
    """Read a solver's name as the JSON spells it."""
    if name in ON_TIME:
        return ON_TIME[name]
    family, *numbers = name.split("_")
    if family == "bdia":
        return BDIA(float(numbers[0]))
    terms, beta = int(numbers[0]), float(numbers[1])
    return HB(terms, beta) if family == "hb" else GHVB(terms, beta, start=None)


def inverted_by_bdia(steps: int, gamma: float):
    """Invert data, which have no memory: begin with Euler's method."""
    down = uniform(steps)[::-1]
    moves = plan(down[:2], Euler()) + plan(down[1:], BDIA(gamma))
    return integrate(velocity, ARRAYS["exact"], moves, return_memory=True)


def computed(key: str) -> torch.Tensor:
    name, steps = re.fullmatch(r"(.+)_N(\d+)", key).groups()
    steps = int(steps)
    if name in ON_LOG_SNR:
        moves = plan(log_snr(steps, T_MIN, T_MAX), ON_LOG_SNR[name])
        return integrate(velocity, ARRAYS["xa"], moves)
    if name.startswith("bdia_inv_"):
        x0, memory = inverted_by_bdia(steps, float(name.removeprefix("bdia_inv_")))
        return torch.stack((x0, memory.get("state")[0][1]))
    if name.startswith("inv_"):
        moves = plan(uniform(steps), solver_on_time(name.removeprefix("inv_")))
        return integrate(velocity, ARRAYS["exact"], reverse(moves))
    return integrate(velocity, ARRAYS["x0"], plan(uniform(steps), solver_on_time(name)))


def test_field_is_the_golden_field():
    for t, x, v in zip(ARRAYS["field_t"], ARRAYS["field_x"], ARRAYS["field_v"], strict=True):
        torch.testing.assert_close(velocity(x, t.item()), v, rtol=0, atol=1e-10)


def test_exact_flow_map():
    end = integrate(velocity, ARRAYS["x0"], plan(uniform(1024), RK4()))
    torch.testing.assert_close(end, ARRAYS["exact"], rtol=0, atol=1e-9)


def test_exact_flow_map_between_the_log_snr_ends():
    end = integrate(velocity, ARRAYS["xa"], plan(uniform(1024, T_MIN, T_MAX), RK4()))
    torch.testing.assert_close(end, ARRAYS["exact_b"], rtol=0, atol=1e-9)
    start = integrate(velocity, ARRAYS["x0"], plan(uniform(64, 0.0, T_MIN), RK4()))
    torch.testing.assert_close(start, ARRAYS["xa"], rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:inversion with gamma:RuntimeWarning")
@pytest.mark.parametrize("key", sorted(ARRAYS.keys() - DATA))
def test_solver(key):
    loose = key.startswith("bdia_inv_0.5")
    tolerance = 1e-6 if loose else TOLERANCE
    torch.testing.assert_close(computed(key), ARRAYS[key], rtol=tolerance, atol=TOLERANCE)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "fireflow", "bdia_1.0"])
@pytest.mark.parametrize("steps", [8, 128])
def test_measured_errors(solver, steps):
    expected = NOTES["measured"]["uniform_t_grid_0_1"][solver]["rms_error"][str(steps)]
    end = integrate(velocity, ARRAYS["x0"], plan(uniform(steps), solver_on_time(solver)))
    rms = (end - ARRAYS["exact"]).square().mean().sqrt().item()
    assert rms == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("steps", [8, 16, 32])
@pytest.mark.filterwarnings("ignore:inversion with gamma:RuntimeWarning")
def test_measured_round_trip_of_bdia(gamma, steps):
    expected = NOTES["measured"]["round_trip"][f"gamma{gamma}_N{steps}"]
    x0, memory = inverted_by_bdia(steps, gamma)
    assert x0.abs().max().item() == pytest.approx(expected["max_abs_x0"], rel=1e-5)
    moves = plan(uniform(steps), BDIA(gamma))
    again = integrate(velocity, x0, moves, memory=memory)
    kept = (again - ARRAYS["exact"]).abs().max().item()
    assert kept <= max(1e-12, 100 * expected["pair_roundtrip_max"])
    dropped = (integrate(velocity, x0, moves) - ARRAYS["exact"]).abs().max().item()
    assert dropped == pytest.approx(expected["keep_only_x0_max"], rel=1e-5)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4"])
@pytest.mark.parametrize("steps", [8, 32, 64])
def test_measured_round_trip(solver, steps):
    expected = NOTES["measured"]["round_trip"][f"{solver}_N{steps}"]["roundtrip_rms"]
    moves = plan(uniform(steps), ON_TIME[solver])
    there = integrate(velocity, ARRAYS["exact"], reverse(moves))
    rms = (integrate(velocity, there, moves) - ARRAYS["exact"]).square().mean().sqrt().item()
    assert rms == pytest.approx(expected, rel=1e-6)
