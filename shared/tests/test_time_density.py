"""Time densities: golden values, laws of the samples, shifts."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.time_density import (
    Beta,
    CosMap,
    Discrete,
    Edm,
    LogitNormal,
    Mode,
    PiecewiseUniform,
    Shifted,
    TimeDensity,
    Uniform,
    UShaped,
    diffusers_schedule,
    dynamic_shift,
    sd3_shift,
)
from torch.testing import assert_close

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz")
DENSITIES = [
    Uniform(),
    Uniform(0.1, 0.7),
    PiecewiseUniform((0.01, 0.6, 0.99), (3, 7)),
    PiecewiseUniform((0.0, 0.2, 0.5, 1.0), (0.1, 0.6, 0.3)),
    LogitNormal(),
    LogitNormal(1.0, 0.6),
    Mode(1.29),
    Mode(-0.5),
    CosMap(),
    UShaped(4.0),
    Beta(2.0, 3.5),
    Edm(),
    Shifted(LogitNormal(), 3.0),
    Shifted(Uniform(0.1, 0.9), 0.5),
    Shifted(Uniform(), 20.0),
]
each_density = pytest.mark.parametrize("density", DENSITIES, ids=repr)


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[key])


def ks(sample: torch.Tensor, cdf: torch.Tensor) -> float:
    n = len(sample)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    return max((steps[1:] - cdf).abs().max().item(), (steps[:-1] - cdf).abs().max().item())


def exact_cdf(density: TimeDensity, at: torch.Tensor) -> torch.Tensor:
    """Integrate the density numerically, without its inverse."""
    grid = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    p = density.log_prob(grid).exp()
    mass = torch.cat([p.new_zeros(1), torch.cumulative_trapezoid(p, grid)])
    return torch.from_numpy(np.interp(at.numpy(), grid.numpy(), mass.numpy()))


@each_density
def test_density_integrates_to_one(density: TimeDensity) -> None:
    total = exact_cdf(density, torch.ones(1, dtype=torch.float64))
    assert_close(total, torch.ones_like(total), atol=2e-5, rtol=0)


@each_density
def test_inverse_belongs_to_the_density(density: TimeDensity) -> None:
    u = torch.linspace(0.001, 0.999, 400, dtype=torch.float64)
    t = density.icdf(u)
    assert (t.diff() > 0).all()
    assert_close(exact_cdf(density, t), u, atol=2e-5, rtol=0)


@each_density
@pytest.mark.parametrize("stratified", [True, False])
def test_samples_follow_the_density(density: TimeDensity, stratified: bool) -> None:
    """Acceptance 13: Kolmogorov-Smirnov distance of 1e5 draws below 0.006."""
    generator = torch.Generator().manual_seed(0)
    t = density.sample(100_000, generator=generator, stratified=stratified, dtype=torch.float64)
    t = t.sort().values
    assert t.min() >= 0
    assert t.max() <= 1
    assert ks(t, exact_cdf(density, t)) < (0.0001 if stratified else 0.006)


@pytest.mark.parametrize("key", ["0_1", "0.5_0.6", "-0.5_1", "1_0.6"])
def test_golden_logit_normal(key: str) -> None:
    """Golden values are in noise time: s = 1 - t."""
    s = golden("tdens/t")
    density = LogitNormal(*map(float, key.split("_")))
    prefix = f"tdens/logitnormal/{key}"
    assert_close(density.log_prob(1 - s).exp(), golden(f"{prefix}/pdf"), rtol=1e-9, atol=1e-12)
    assert_close(1 - density.icdf(1 - s), golden(f"{prefix}/quantile"), rtol=1e-9, atol=1e-12)
    sample = density.sample(
        100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64, stratified=False
    )
    empirical = torch.stack([(1 - sample <= edge).double().mean() for edge in s])
    assert (empirical - golden(f"{prefix}/cdf")).abs().max() < 0.006


@pytest.mark.parametrize("scale", ["-1", "-0.5", "0", "0.5", "1", "1.29", "1.75"])
def test_golden_mode(scale: str) -> None:
    density, prefix = Mode(float(scale)), f"tdens/mode/{scale}"
    u, s = golden("tdens/u"), golden("tdens/t")
    assert_close(1 - density.icdf(u), golden(f"{prefix}/f"), rtol=1e-9, atol=1e-12)
    assert_close(density.log_prob(1 - s).exp(), golden(f"{prefix}/pdf"), rtol=1e-9, atol=1e-12)


def test_golden_cosmap() -> None:
    u, s = golden("tdens/u"), golden("tdens/t")
    assert_close(1 - CosMap().icdf(1 - u), golden("tdens/cosmap/f"), rtol=1e-9, atol=1e-12)
    assert_close(CosMap().log_prob(1 - s).exp(), golden("tdens/cosmap/pdf"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("a", ["2", "4"])
def test_golden_u_shape(a: str) -> None:
    density, t, prefix = UShaped(float(a)), golden("tdens/t"), f"tdens/ushape/{a}"
    assert_close(density.log_prob(t).exp(), golden(f"{prefix}/pdf"), rtol=1e-9, atol=1e-12)
    assert_close(density.icdf(t), golden(f"{prefix}/quantile"), rtol=1e-9, atol=1e-12)
    assert_close(density.icdf(golden(f"{prefix}/cdf")), t, rtol=1e-9, atol=1e-12)


def test_edm_times_are_those_of_log_normal_sigmas() -> None:
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    sigma = torch.exp(-1.2 + 1.2 * torch.special.ndtri(u))
    assert_close(Edm().icdf(1 - u), 1 / (1 + sigma))


def test_positive_logit_mean_means_more_noise() -> None:
    assert LogitNormal(1.0, 0.6).icdf(torch.tensor(0.5)).item() == pytest.approx(
        1 / (1 + math.e), rel=1e-6
    )


def test_grid_is_the_starts_of_equal_steps() -> None:
    t = Discrete(4).sample(4000, generator=torch.Generator().manual_seed(0))
    values, counts = t.unique(return_counts=True)
    assert values.tolist() == [0, 0.25, 0.5, 0.75]
    assert counts.tolist() == [1000] * 4
    assert Discrete(1).sample(3).tolist() == [0, 0, 0]
    assert Discrete(4).icdf(torch.ones(1)).item() == 0.75
    at = torch.tensor([0.0, 0.25, 0.3, 1.0], dtype=torch.float64)
    assert_close(Discrete(4).log_prob(at).exp(), torch.tensor([0.25, 0.25, 0, 0]).double())
    third = Discrete(3).icdf(torch.tensor([0.5]))
    assert Discrete(3).log_prob(third).isfinite().all()


def test_stratified_samples_hit_every_slice_once_in_random_order() -> None:
    t = Uniform().sample(64, generator=torch.Generator().manual_seed(0))
    assert (t * 64).floor().sort().values.tolist() == list(range(64))
    assert t.tolist() != t.sort().values.tolist()


def test_stratified_position_carries_no_information() -> None:
    """Each entry alone is uniform, so that sample i is not always trained at time i."""
    generator = torch.Generator().manual_seed(0)
    first = torch.stack([Uniform().sample(8, generator=generator)[0] for _ in range(2000)])
    assert ks(first.sort().values.double(), first.sort().values.double()) < 1.63 / 2000**0.5


def test_samples_are_reproducible_and_typed() -> None:
    for density in DENSITIES:
        draws = [density.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
        assert torch.equal(*draws)
        assert draws[0].dtype == torch.float32
        assert density.sample(5, dtype=torch.float64).dtype == torch.float64


@each_density
def test_nothing_lies_outside(density: TimeDensity) -> None:
    outside = torch.tensor([-0.1, 1.1], dtype=torch.float64)
    assert torch.equal(density.log_prob(outside), torch.full((2,), -math.inf).double())


@pytest.mark.parametrize("alpha", ["1", "1.5", "3", "6"])
def test_golden_shift(alpha: str) -> None:
    s = golden("tdens/u")
    assert_close(
        1 - sd3_shift(1 - s, float(alpha)), golden(f"shift/{alpha}"), rtol=1e-9, atol=1e-12
    )


def test_shift_moves_the_log_snr_and_is_inverted() -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    moved = torch.logit(sd3_shift(t, 3.0)) - torch.logit(t)  # half the log-SNR
    assert_close(moved, torch.full_like(t, -math.log(3)))
    assert_close(sd3_shift(sd3_shift(t, 3.0), 1 / 3), t)
    assert (sd3_shift(0.0, 3.0), sd3_shift(1.0, 3.0)) == (0.0, 1.0)


@pytest.mark.parametrize("tokens", [256, 1024, 2304, 4096])
def test_golden_dynamic_shift(tokens: int) -> None:
    alpha = dynamic_shift(tokens)
    assert math.log(alpha) == pytest.approx(float(GOLDEN[f"dynshift/{tokens}/mu"]), rel=1e-9)
    s = golden("tdens/u")[1:]
    expected = golden(f"dynshift/{tokens}/sigma")
    assert_close(1 - sd3_shift(1 - s, alpha), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("steps", [1, 4, 8, 28, 50])
def test_golden_diffusers_schedule(steps: int, shift: int) -> None:
    times = diffusers_schedule(steps, float(shift))
    sigmas = GOLDEN[f"diffusers/flowmatch_euler/shift{shift}/{steps}"]
    np.testing.assert_allclose(1 - np.array(times), sigmas, rtol=0, atol=1e-6)
    assert times[0] == 0.0
    assert times[-1] == 1.0
    assert all(a < b for a, b in itertools.pairwise(times))


@pytest.mark.parametrize(("build", "message"), [
    (lambda: Uniform(0.5, 0.5), "0 <= low < high <= 1"),
    (lambda: Uniform(-0.1), "got low=-0.1"),
    (lambda: PiecewiseUniform((0, 0.5), (1, 1)), "a positive mass between"),
    (lambda: PiecewiseUniform((0.5, 0.5, 1), (1, 1)), "increasing edges"),
    (lambda: PiecewiseUniform((0, 0.5, 1.5), (1, 1)), "increasing edges"),
    (lambda: PiecewiseUniform((0, 0.5, 1), (1, 0)), "a positive mass"),
    (lambda: LogitNormal(0, 0), "must be positive, got 0"),
    (lambda: Mode(1.8), r"from -1 to 1\.7519, got 1\.8"),
    (lambda: Mode(-1.1), r"got -1\.1"),
    (lambda: UShaped(0), r"needs a > 0, got 0; use Uniform"),
    (lambda: Beta(0.0, 1.0), "beta parameters must be positive"),
    (lambda: Discrete(0), "at least one time, got k=0"),
    (lambda: Shifted(Uniform(), 0.0), "shift must be positive, got 0"),
    (lambda: sd3_shift(0.5, -1.0), "shift must be positive"),
    (lambda: dynamic_shift(9, low=(4, 0), high=(4, 1)), "different token counts, got 4"),
    (lambda: diffusers_schedule(0), "at least one step, got steps=0"),
])  # fmt: skip
def test_bad_parameters(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
