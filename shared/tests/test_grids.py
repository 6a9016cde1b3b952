from __future__ import annotations

import math
from itertools import pairwise

import pytest
from rectiflow import grids
from rectiflow.paths import Linear, VariancePreserving

MAKERS = {
    "uniform": lambda n: grids.uniform(n),
    "uniform_inner": lambda n: grids.uniform(n, 0.1, 0.7),
    "shifted": lambda n: grids.shifted(n, 3.0),
    "shifted_down": lambda n: grids.shifted(n, 0.25),
    "log_snr": lambda n: grids.log_snr(n, 1e-3, 0.999),
    "log_snr_vp": lambda n: grids.log_snr(n, 1e-3, 0.999, VariancePreserving()),
    "karras": lambda n: grids.karras(n),
    "exponential": lambda n: grids.exponential(n),
    "quadratic": lambda n: grids.quadratic(n, 0.05, 0.9),
}


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_grid_increases_and_holds_python_floats(make, steps):
    grid = make(steps)
    assert len(grid) == steps + 1
    assert all(type(t) is float for t in grid)
    assert all(a < b for a, b in pairwise(grid))


@pytest.mark.parametrize(
    ("grid", "ends"),
    [
        (grids.uniform(7), (0.0, 1.0)),
        (grids.uniform(3, 0.1, 0.7), (0.1, 0.7)),
        (grids.shifted(7, 3.0), (0.0, 1.0)),
        (grids.log_snr(7, 0.02, 0.98), (0.02, 0.98)),
        (grids.log_snr(7, 0.02, 0.98, VariancePreserving()), (0.02, 0.98)),
        (grids.karras(7, 0.25, 3.0), (0.25, 0.8)),
        (grids.exponential(7, 0.25, 3.0), (0.25, 0.8)),
        (grids.quadratic(7, 0.05, 0.9), (0.05, 0.9)),
    ],
)
def test_ends_are_exact(grid, ends):
    assert (grid[0], grid[-1]) == ends


def test_shifted_by_one_is_uniform_and_above_one_dense_at_the_noise():
    assert grids.shifted(8, 1.0) == pytest.approx(grids.uniform(8), abs=1e-15)
    steps = [b - a for a, b in pairwise(grids.shifted(8, 3.0))]
    assert all(a < b for a, b in pairwise(steps))
    # tau' = s tau / (1 + (s - 1) tau) at tau = 1/2: 1.5 / 2
    assert grids.shifted(2, 3.0)[1] == pytest.approx(0.25)


@pytest.mark.parametrize("path", [Linear(), VariancePreserving()])
def test_log_snr_is_uniform_in_log_snr(path):
    grid = grids.log_snr(9, 0.02, 0.98, path)
    lams = [path.lam(t) for t in grid]
    steps = [b - a for a, b in pairwise(lams)]
    assert steps == pytest.approx([steps[0]] * 9, rel=1e-9)


def test_karras_follows_its_power_law():
    ratios = [(1 - t) / t for t in grids.karras(5, 0.01, 50.0, rho=7.0)]
    roots = [r ** (1 / 7) for r in ratios]
    assert [b - a for a, b in pairwise(roots)] == pytest.approx([roots[1] - roots[0]] * 5)


def test_exponential_is_geometric_and_the_limit_of_karras():
    grid = grids.exponential(5, 0.01, 50.0)
    ratios = [(1 - t) / t for t in grid]
    assert [b / a for a, b in pairwise(ratios)] == pytest.approx([ratios[1] / ratios[0]] * 5)
    assert grids.karras(5, 0.01, 50.0, rho=1e6) == pytest.approx(grid, rel=1e-4)
    assert grids.log_snr(5, grid[0], grid[-1]) == pytest.approx(grid, rel=1e-12)


def test_quadratic_steps_shrink_linearly():
    steps = [b - a for a, b in pairwise(grids.quadratic(5))]
    assert [a - b for a, b in pairwise(steps)] == pytest.approx([2 / 25] * 4)


def test_from_indices_picks_points():
    fine = grids.uniform(20)
    assert grids.from_indices(fine, [0, 5, 13, 20]) == [0.0, 0.25, 0.65, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grids.uniform(0), r"steps must be at least 1, got 0"),
        (lambda: grids.uniform(3, 0.5, 0.5), r"got t_min=0.5, t_max=0.5; expected 0 <= t_min"),
        (lambda: grids.uniform(3, -0.1, 0.5), r"expected 0 <= t_min < t_max <= 1"),
        (lambda: grids.shifted(3, 0.0), r"shift must be positive, got 0.0"),
        (lambda: grids.shifted(3, math.nan), r"shift must be positive, got nan"),
        (lambda: grids.log_snr(3, 0.0, 0.9), r"the log-SNR is infinite at 0 and 1"),
        (lambda: grids.log_snr(3, 0.1, 1.0), r"expected 0 < t_min < t_max < 1"),
        (lambda: grids.karras(3, 2.0, 1.0), r"expected 0 < sigma_min < sigma_max"),
        (lambda: grids.karras(3, rho=-1.0), r"rho must be positive, got -1.0"),
        (lambda: grids.exponential(3, 0.0, 1.0), r"expected 0 < sigma_min < sigma_max"),
        (lambda: grids.quadratic(3, 0.9, 0.1), r"expected 0 <= t_min < t_max <= 1"),
        (lambda: grids.from_indices([0.0, 1.0], [0, 2]), r"got \[2\]; expected 0 to 1"),
        (lambda: grids.from_indices([0.0, 1.0], [-1, 1]), r"got \[-1\]; expected 0 to 1"),
        (lambda: grids.from_indices([0.0, 1.0], [1, 0]), r"the times picked must increase"),
        (lambda: grids.from_indices([0.0, 1.0], [1]), r"at least 2 times, got 1"),
        (lambda: grids.from_indices([0.0, 0.5, 1.0], [0, 2, 1]), r"strictly increase or strictly"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("grid", [[0.0, 0.0], [0.0, 0.5, 0.4], [0.0, math.nan], [0.0, math.inf]])
def test_check_grid_rejects_what_is_not_monotone_or_finite(grid):
    with pytest.raises(ValueError, match="strictly increase or strictly decrease"):
        grids.check_grid(grid)


def test_check_grid_accepts_both_directions():
    grids.check_grid([0.0, 0.5, 1.0])
    grids.check_grid([1.0, 0.5, 0.0])
