"""The official schedule of TripoSG in the core's words: grids, Euler's method, laws of the time."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow.grids import shifted
from rectiflow.integrate import integrate, plan
from rectiflow.paths import Linear
from rectiflow.solvers import Euler
from rectiflow.time_density import CosMap, LogitNormal, Mode

sys.path.insert(0, str(Path(__file__).parent))
from triposg_golden import cases

NEAR = 1e-6


@pytest.fixture(scope="module", params=cases("triposg_scheduler_"))
def case(request):
    return request.param


def shifts(case):
    """Return the shift of each schedule by its prefix: of noise levels, or the exponential form."""
    found = {}
    for name in case.tensors:
        prefix = name.partition("/")[0]
        if prefix.startswith("shift"):
            found[prefix] = float(prefix.removeprefix("shift"))
        elif prefix.startswith("dynamic_mu"):
            found[prefix] = float(torch.tensor(float(prefix.removeprefix("dynamic_mu"))).exp())
    return found


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_noise_levels_and_official_times(case, steps):
    for prefix, shift in shifts(case).items():
        times = torch.tensor(shifted(steps, shift), dtype=torch.float64)
        levels = (1 - times).float()
        stored = f"{prefix}/steps{steps}"
        assert torch.allclose(levels, case[f"{stored}/sigmas"], atol=NEAR)
        assert torch.allclose(1000 * levels[:-1], case[f"{stored}/timesteps"], rtol=NEAR, atol=1e-4)


@pytest.mark.parametrize("steps", [10, 25, 50])
@pytest.mark.parametrize("prefix", ["shift1.0", "shift3.0"])
def test_trajectories(case, prefix, steps):
    velocities = iter(case[f"{prefix}/steps{steps}/velocities"])
    states = []
    integrate(
        lambda x, t: next(velocities),
        case["in/x0"],
        plan(shifted(steps, float(prefix.removeprefix("shift"))), Euler()),
        hook=lambda moved: states.append(moved.state),
    )
    wanted = case[f"{prefix}/steps{steps}/trajectory"]
    assert torch.allclose(torch.stack(states), wanted, atol=NEAR * wanted.abs().max())


def test_points_between_noise_and_data(case):
    level = case["in/timesteps"] / 1000
    found, _ = Linear().interpolate(case["in/noise"], case["in/x0"], 1 - level)
    assert torch.allclose(found, case["out/scale_noise"], atol=NEAR)


def test_laws_of_the_noise_level(case):
    """A draw of ours from the same uniform numbers is the official noise level's complement."""
    generator = torch.Generator().manual_seed(case.about["seed"])
    normal = torch.randn(256, generator=generator)
    u = torch.special.ndtr(normal.double())
    assert torch.allclose(LogitNormal().icdf(u).float(), case["density/logit_normal"], atol=NEAR)
    generator = torch.Generator().manual_seed(case.about["seed"])
    u = torch.rand(256, generator=generator)
    assert torch.allclose(u, case["density/uniform"])
    found = Mode(1.29).icdf(u)
    assert torch.allclose(found, case["density/mode"], atol=NEAR) or torch.allclose(
        1 - found, case["density/mode"], atol=NEAR
    )


def test_weights_of_the_loss(case):
    level = case["in/loss_sigmas"]
    assert torch.equal(case["loss_weight/none"], torch.ones_like(level))
    assert torch.allclose(level**-2, case["loss_weight/sigma_sqrt"], rtol=NEAR)
    weight = CosMap().log_prob(1 - level).exp()
    assert torch.allclose(weight, case["loss_weight/cosmap"], rtol=2 * NEAR)
