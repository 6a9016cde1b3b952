"""Metrics: closed forms, brute force, and how sets are told apart."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from rectiflow_shape import metrics


def cloud(n, seed=0, shift=0.0):
    return torch.rand(n, 3, generator=torch.Generator().manual_seed(seed)).double() + shift


def test_distances_are_those_of_all_pairs():
    x, y = cloud(50), cloud(70, 1)
    pairs = torch.cdist(x, y)
    there, back = pairs.amin(1), pairs.amin(0)
    assert metrics.chamfer(x, y) == pytest.approx(
        float((there**2).mean() + (back**2).mean()), rel=1e-9
    )
    assert metrics.chamfer_l1(x, y) == pytest.approx(float(there.mean() + back.mean()) / 2)
    p, r = (float((d <= 0.1).double().mean()) for d in (there, back))
    assert metrics.f_score(x, y, 0.1) == pytest.approx(2 * p * r / (p + r))
    assert metrics.f_score(x, x) == 1
    assert metrics.f_score(x, x + 5) == 0


def test_emd_is_the_best_of_all_permutations():
    x, y = cloud(6), cloud(6, 1)
    best = min(float((x - y[list(p)]).norm(dim=1).mean()) for p in permutations(range(6)))
    assert metrics.emd(x, y) == pytest.approx(best)
    with pytest.raises(ValueError, match="as many points, got 6 and 5"):
        metrics.emd(x, y[:5])


def test_normals_and_volumes():
    x = cloud(40)
    up = torch.tensor([[0.0, 0.0, 1.0]]).double().expand(40, 3)
    tilted = torch.tensor([[0.0, 0.6, -0.8]]).double().expand(40, 3)
    assert metrics.normal_consistency(x, up, x, tilted) == pytest.approx(0.8)
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert metrics.iou(a, b) == pytest.approx(1 / 3)
    assert metrics.iou(a & ~a, b & ~b) == 1


def test_sets_that_are_alike_and_sets_that_are_not():
    real = [cloud(30, seed) for seed in range(6)]
    far = [cloud(30, seed, shift=4.0) for seed in range(6)]
    within = metrics.pairwise(real, real, metrics.chamfer)
    assert torch.equal(within, within.T)
    assert (metrics.mmd(within), metrics.cov(within)) == (0, 1)
    across = metrics.pairwise(far, real, metrics.chamfer)
    assert metrics.one_nna(metrics.pairwise(far, far, metrics.chamfer), across, within) == 1
    assert metrics.one_nna(within, within, within) == 0  # the nearest of each is its copy
    one = metrics.pairwise([real[0]] * 6, real, metrics.chamfer)
    assert metrics.cov(one) == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="sets of one size, got 3 generated and 6 real"):
        metrics.one_nna(within[:3, :3], within[:3], within)
