"""Moving averages: golden values, profiles, storage, post-hoc reconstruction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.training import ConstantDecay, Ema, PowerDecay, WarmUpDecay
from rectiflow.training.post_hoc import (
    profile_weights,
    read_snapshots,
    reconstruct,
    save_snapshot,
)
from torch import nn

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz"


class Scalar(nn.Module):
    def __init__(self, value=0.0, dtype=torch.float32):
        super().__init__()
        self.value = nn.Parameter(torch.tensor([value], dtype=dtype))
        self.register_buffer("count", torch.zeros(1))

    def set(self, value):
        with torch.no_grad():
            self.value.fill_(value)


def average_over(values, profile):
    module = Scalar(float(values[0]))
    ema = Ema(module, profile)
    for value in values[1:]:
        module.set(float(value))
        ema.update(module)
    return ema.average["value"].item()


@pytest.mark.parametrize(
    ("profile", "key"), [(ConstantDecay, "final"), (WarmUpDecay, "final_warmup")]
)
def test_golden_averages(profile, key):
    golden = np.load(GOLDEN)
    for decay, expected in zip(golden["ema/decay"], golden[f"ema/{key}"], strict=True):
        found = average_over(golden["ema/sequence"], profile(float(decay)))
        assert found == pytest.approx(expected, abs=2e-6)


def test_number_means_warm_up():
    assert Ema(Scalar(), 0.99).profile == WarmUpDecay(0.99)
    assert [WarmUpDecay(0.5)(n) for n in (1, 100)] == [2 / 11, 0.5]


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.1, 0.25])
def test_power_profile_has_its_width(sigma_rel):
    """Mean and spread of the weights that the recursion gives to each step."""
    profile, n = PowerDecay(sigma_rel), 4000
    weights = np.zeros(n)
    for step in range(1, n + 1):
        weights *= profile(step)
        weights[step - 1] = 1.0 - profile(step)
    assert weights.sum() == pytest.approx(1.0)
    steps = np.arange(1, n + 1)
    mean = (weights * steps).sum()
    spread = np.sqrt((weights * (steps - mean) ** 2).sum())
    assert spread / n == pytest.approx(sigma_rel, rel=2e-3)
    gamma = profile.gamma
    assert sigma_rel**2 == pytest.approx((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def test_power_profile_forgets_the_initial_value():
    assert average_over([100.0, 2.0, 2.0], PowerDecay(0.1)) == 2.0


def test_storage_is_float32_for_half_networks():
    """In bfloat16 an update by 1e-3 would be lost."""
    module = Scalar(1.0, dtype=torch.bfloat16)
    ema = Ema(module, ConstantDecay(0.999))
    module.set(2.0)
    for _ in range(1000):
        ema.update(module)
    assert ema.average["value"].dtype == torch.float32
    assert ema.average["value"].item() == pytest.approx(2 - 0.999**1000, abs=1e-4)


def test_averaged_swaps_and_restores_even_after_an_error():
    module = Scalar(0.0)
    ema = Ema(module, ConstantDecay(0.5))
    module.set(1.0)
    ema.update(module)
    module.count.fill_(7.0)

    def inside():
        with ema.averaged(module) as averaged:
            assert averaged.value.item() == 0.5
            assert averaged.count.item() == 7.0
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        inside()
    assert module.value.item() == 1.0


def test_state_round_trip_continues_alike():
    module = Scalar(1.0)
    first = Ema(module, PowerDecay(0.1))
    for value in (2.0, 3.0):
        module.set(value)
        first.update(module)
    second = Ema(Scalar(0.0), PowerDecay(0.1))
    second.load_state_dict(first.state_dict())
    for ema in (first, second):
        ema.update(module)
    assert torch.equal(first.average["value"], second.average["value"])


def test_state_of_another_network_is_refused():
    ema = Ema(nn.Linear(2, 2), 0.9)
    with pytest.raises(ValueError, match="3 names differ"):
        ema.load_state_dict(Ema(Scalar(), 0.9).state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\)"):
        WarmUpDecay(decay)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3])
def test_bad_width(sigma_rel):
    with pytest.raises(ValueError, match=r"sigma_rel must lie in \(0, 0\.288\)"):
        PowerDecay(sigma_rel)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """A noisy trajectory, averaged with two widths, stored every 100 of 2000 updates."""
    folder = tmp_path_factory.mktemp("snapshots")
    module = Scalar(0.0)
    stored = [Ema(module, PowerDecay(sigma)) for sigma in (0.05, 0.10)]
    wanted = Ema(module, PowerDecay(0.07))
    generator = torch.Generator().manual_seed(0)
    at_1500 = 0.0
    for step in range(1, 2001):
        noise = torch.randn((), generator=generator).item()
        module.set(np.sin(step / 300) + 0.1 * noise)
        for ema in (*stored, wanted):
            ema.update(module)
        if step % 100 == 0:
            for ema in stored:
                save_snapshot(ema, folder)
        if step == 1500:
            at_1500 = wanted.average["value"].item()
    return folder, wanted.average["value"].item(), at_1500


def test_reconstruction_matches_the_average_that_was_not_stored(snapshots):
    folder, final, at_1500 = snapshots
    found = read_snapshots(folder)
    assert len(found) == 40
    assert reconstruct(found, 0.07)["value"].item() == pytest.approx(final, abs=2e-3)
    assert reconstruct(found, 0.07, 1500)["value"].item() == pytest.approx(at_1500, abs=2e-3)
    # One width alone is visibly another average.
    assert abs(reconstruct(found, 0.10)["value"].item() - final) > 5e-3


def test_reconstruction_of_a_stored_width_is_exact():
    stored = [(n, PowerDecay(sigma)) for n in (100, 200) for sigma in (0.05, 0.1)]
    weights = profile_weights(stored, (200, PowerDecay(0.05)))
    np.testing.assert_allclose(weights, [0, 0, 1, 0], atol=1e-6)


def test_reconstruction_needs_an_early_snapshot(snapshots):
    with pytest.raises(ValueError, match="no snapshot has at most 50 updates"):
        reconstruct(read_snapshots(snapshots[0]), 0.07, 50)


def test_only_power_averages_are_snapshots(tmp_path):
    with pytest.raises(TypeError, match=r"got profile '0\.9'"):
        save_snapshot(Ema(Scalar(), 0.9), tmp_path)
