"""Shared features, regions, and sizes beyond training."""

from __future__ import annotations

import pytest
import torch
from rectiflow import GaussianMixtureFlow, KeyedNoise, bind, counted
from rectiflow.editing import (
    FeatureTape,
    RegionalNoise,
    Smoothed,
    Tiling,
    dilated,
    edit_region,
    enlarge,
    regional_guide,
    tiled,
    time_travel,
)
from rectiflow.grids import uniform
from rectiflow.guidance import guided
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.solvers import DDIM, Ancestral, Euler, Midpoint
from torch import nn

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Attention(nn.Module):
    """A little attention network under a condition."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.to_qk = nn.Linear(3, 8)
        self.to_v = nn.Linear(3, 3)
        self.out = nn.Linear(3, 3)
        self.double()

    def forward(self, x, t, cond):
        q, k = self.to_qk(x + cond).chunk(2, -1)
        mixed = nn.functional.scaled_dot_product_attention(q, k, self.to_v(x + cond))
        return self.out(mixed) * (1 + t[:, None, None]) - 0.3 * x


NET = Attention()
SOURCE, TARGET = (bind(NET, c * torch.ones(2, 1, 3, dtype=F64)) for c in (0.2, 0.9))
X1 = randn(2, 5, 3)


def _tape():
    return FeatureTape(NET, lambda name: name.endswith("to_v"))


@pytest.mark.parametrize("solver", [Euler(), Midpoint()])
def test_features_of_the_same_trajectory_change_nothing(solver):
    tape, forth = _tape(), plan(uniform(6), solver)
    recorded = integrate(SOURCE, X1, plan(uniform(6), tape.record(solver)))
    assert torch.equal(recorded, integrate(SOURCE, X1, forth))
    replayed = integrate(SOURCE, X1, plan(uniform(6), tape.replay(solver, 6)))
    assert torch.equal(replayed, recorded)
    assert len(tape.features) == 6 * solver.nfe
    assert not NET.to_v._forward_hooks


def test_sharing_keeps_the_source():
    """With the source's own condition at least as faithful; with another nearer to the source."""
    solver, grid = Euler(), uniform(8)
    tape = _tape()
    noise = integrate(SOURCE, X1, reverse(plan(grid, tape.record(solver))))
    moves = plan(grid, solver)
    shared, free = plan(grid, tape.replay(solver, 8)), moves
    assert shared.nfe == free.nfe == 8
    back, same = (integrate(SOURCE, noise, m) for m in (shared, free))
    assert (back - X1).norm() <= (same - X1).norm()
    edits = [integrate(TARGET, noise, plan(grid, tape.replay(solver, k))) for k in (0, 4, 8)]
    away = [(edit - X1).norm().item() for edit in edits]
    assert away[0] > away[1] > away[2]
    assert torch.equal(edits[0], integrate(TARGET, noise, moves))


def test_keys_are_checked():
    tape = _tape()
    integrate(SOURCE, X1, plan(uniform(4), tape.record(Euler())))
    with pytest.raises(ValueError, match=r"nothing is recorded of 'to_v' between t=0 and 0\.2"):
        integrate(SOURCE, X1, plan(uniform(5), tape.replay(Euler(), 5)))
    with pytest.raises(ValueError, match="evaluation 2"):
        integrate(SOURCE, X1, plan(uniform(4), tape.replay(Midpoint(), 1)))
    field = bind(NET, torch.zeros(3, 1, 3, dtype=F64))
    with pytest.raises(ValueError, match="whole copies"):
        integrate(field, randn(3, 5, 3), plan(uniform(4), tape.replay(Euler(), 1)))
    twice = bind(NET, torch.zeros(4, 1, 3, dtype=F64))
    integrate(twice, randn(4, 5, 3), plan(uniform(4), tape.replay(Euler(), 4)))
    with pytest.raises(ValueError, match="no module is taped"):
        FeatureTape(NET, lambda name: "conv" in name)
    assert not NET.to_v._forward_hooks


REGION = torch.tensor([True, True, False, False])


def elementwise(x, t):
    return torch.tanh(x) - t * x


def test_noise_in_a_region_is_bitwise_nothing_outside():
    x0, grid, noise = randn(5, 4), uniform(7), KeyedNoise(0, range(5))
    found = integrate(elementwise, x0, plan(grid, RegionalNoise(REGION, 0.8)), noise=noise)
    plain = integrate(elementwise, x0, plan(grid, DDIM()))
    ancestral = integrate(elementwise, x0, plan(grid, Ancestral(0.8)), noise=noise)
    assert torch.equal(found[:, ~REGION], plain[:, ~REGION])
    assert torch.equal(found[:, REGION], ancestral[:, REGION])
    none = integrate(elementwise, x0, plan(grid, RegionalNoise(REGION, 0.0)), noise=noise)
    assert torch.equal(none, plain)


def test_marginals_stay_under_any_noise():
    """Of point-mass data: mean and deviation of x_t are those of ``t x1 + (1 - t) N``."""
    point = GaussianMixtureFlow(torch.ones(1), torch.full((1, 1), 0.7), 1e-12 * torch.ones(1, 1, 1))
    x0, count = randn(1, 100_000), 100_000
    wide = [0.0, 0.3, 0.6]

    def field(x, t):
        return point(x.T, t).T

    for eta in (0.0, 0.4, 1.0):
        moves = plan(wide, RegionalNoise(torch.tensor([True]), eta))
        x = integrate(field, x0, moves, noise=KeyedNoise(0, [0]))
        assert x.mean().item() == pytest.approx(0.6 * 0.7, abs=4 * 0.4 / count**0.5)
        assert x.std().item() == pytest.approx(0.4, abs=4 * 0.4 / (2 * count) ** 0.5)


def test_time_travel_repeats_moves():
    grid = uniform(5)
    moves = time_travel(grid, Midpoint(), (0.4, 0.8), repeats=3)
    assert moves.nfe == 5 * 2 + 2 * (2 * 2 + 2 * 1)
    assert [m.stop for m in moves][2:7] == pytest.approx([0.6, 0.4, 0.6, 0.4, 0.6])
    assert time_travel(grid, Euler(), (0, 1), repeats=1) == time_travel(grid, Euler(), (2, 3))


def test_an_edit_changes_its_region_alone():
    """For a field that mixes everything: outside bit for bit, inside under the guidance."""
    mixing = randn(4, 4, seed=3) * 0.4

    def field(x, t):
        return torch.tanh(x @ mixing)

    x1, noise = randn(3, 4, seed=4), KeyedNoise(0, range(3))
    towards = regional_guide(
        lambda d: (d - 2).square().sum(1), lambda d: (d + 9).square().sum(1), REGION, 0.5
    )
    found = edit_region(field, x1, REGION, times=uniform(10), noise=noise, guides=[towards])
    assert torch.equal(found[:, ~REGION], x1[:, ~REGION])
    plain = edit_region(field, x1, REGION, times=uniform(10), noise=noise)
    near = [(each[:, REGION] - 2).abs().mean() for each in (found, plain)]
    assert near[0] < 0.5 * near[1]
    late = edit_region(field, x1, REGION, times=uniform(4, t_min=0.7), noise=noise)
    assert (late - x1).norm() < (plain - x1).norm()
    with pytest.raises(ValueError, match="ends at the data"):
        edit_region(field, x1, REGION, times=[0.0, 0.5], noise=noise)


def test_the_two_energies_act_on_their_sides():
    guide = regional_guide(lambda d: 3 * d.sum(1), lambda d: -d.sum(1), REGION, lambda t: t)
    v = guide(randn(2, 4), 0.5, torch.zeros(2, 4, dtype=F64))
    assert torch.equal(v, torch.tensor([-1.5, -1.5, 0.5, 0.5], dtype=F64).expand(2, 4))
    outside = regional_guide(lambda d: d.sum(1), lambda d: d.sum(1), REGION, 1.0, interval=(0, 0.4))
    field = guided(lambda x, t: x, outside)
    assert torch.equal(field(X1[0, :, :][:2, :], 0.9), X1[0, :2])


@pytest.mark.parametrize("extent", [8, 11, 20, 37])
@pytest.mark.parametrize("border", [0, 2])
def test_tiles_are_a_partition_of_unity(extent, border):
    tiling = Tiling(8, 4, border=border)
    total = torch.zeros(extent, dtype=F64)
    for start, share in zip(tiling.starts(extent), tiling.shares(extent), strict=True):
        total[start : start + 8] += torch.tensor(share, dtype=F64)
    torch.testing.assert_close(total, torch.ones(extent, dtype=F64), rtol=1e-15, atol=1e-15)


def test_tiles_leave_pointwise_and_short_sighted_fields_alone():
    x = randn(2, 3, 22, 17)
    tilings = (Tiling(8, 4, -2, 1), Tiling(9, 5, -1, 1))
    torch.testing.assert_close(
        tiled(elementwise, *tilings)(x, 0.3), elementwise(x, 0.3), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        tiled(lambda x, t: torch.full_like(x, 0.7), *tilings)(x, 0.3), torch.full_like(x, 0.7)
    )
    kernel = randn(3, 3, 3, 3, seed=1)

    def conv(x, t):
        return nn.functional.conv2d(x, kernel, padding=1)

    whole = conv(x, 0.3)
    torch.testing.assert_close(tiled(conv, *tilings)(x, 0.3), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(tiled(conv, *tilings, rows=4)(x, 0.3), whole, rtol=1e-12, atol=1e-12)
    seams = tiled(conv, Tiling(8, 4, -2), Tiling(9, 5, -1))(x, 0.3)
    assert (seams - whole).abs().max() > 1e-3


def test_each_tile_may_have_a_condition():
    x = randn(1, 12)
    fields = [lambda x, t, k=k: torch.full_like(x, k) for k in (1.0, 3.0)]
    found = tiled(fields, Tiling(8, 4))(x, 0.0)
    assert found[0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    for bad, said in (
        (lambda: tiled(fields, Tiling(8, 4))(randn(1, 16), 0.0), "2 fields for 3 windows"),
        (lambda: tiled(elementwise, Tiling(8, 4))(randn(1, 7), 0.0), "does not fit"),
        (lambda: tiled(elementwise), "no tiling"),
        (lambda: Tiling(8, 7, border=1), "overlap by two borders"),
        (lambda: dilated(elementwise, 2)(randn(1, 1, 5, 4), 0.0), "multiples of 2"),
        (lambda: dilated(elementwise, 0), "at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()


def test_dilated_views():
    x, generator = randn(2, 1, 8, 6), torch.Generator().manual_seed(0)
    calls = counted(elementwise)
    assert torch.equal(dilated(calls, 1)(x, 0.2), elementwise(x, 0.2))
    torch.testing.assert_close(dilated(calls, 2)(x, 0.2), elementwise(x, 0.2))
    shuffled = dilated(calls, 2, generator=generator)(x, 0.2)
    torch.testing.assert_close(shuffled, elementwise(x, 0.2))
    assert calls.calls == 3

    def mean(x, t):
        return x.mean((-2, -1), keepdim=True).expand_as(x)

    found = dilated(mean, 2)(x, 0.2)
    torch.testing.assert_close(found[:, :, 1::2, ::2], mean(x[:, :, 1::2, ::2], 0.2))
    smooth = Smoothed(2)(x, 0.0)
    torch.testing.assert_close(smooth.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(smooth.std((1, 2, 3)), x.std((1, 2, 3)))
    rough = [(a[..., 1:] - a[..., :-1]).abs().mean() for a in (smooth, x)]
    assert rough[0] < rough[1]
    torch.testing.assert_close(Smoothed(2)(x, 1.0), x)


def test_enlarging_keeps_the_picture():
    """A field that always means one smooth picture of any size: no seam, and the small layout."""
    small = torch.linspace(-1, 1, 8, dtype=F64).expand(1, 1, 6, 8)

    def field(x, t):
        rows = x.mean(-1, keepdim=True)
        return (0.9 * x + 0.1 * rows - x) / 1.0

    generator = torch.Generator().manual_seed(0)
    tilings = (Tiling(6, 3, -2), Tiling(8, 4, -1))
    large = enlarge(field, small, 2, *tilings, generator=generator, steps=12)
    assert large.shape == (1, 1, 12, 16)
    torch.testing.assert_close(large.mean((2, 3)), small.mean((2, 3)))
    torch.testing.assert_close(large.std((2, 3)), small.std((2, 3)))
    columns = large.mean(2)[0, 0]
    assert columns[:5].mean() < -0.3 < 0.3 < columns[-5:].mean()
