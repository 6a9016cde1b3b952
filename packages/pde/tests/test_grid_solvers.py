"""Kuramoto-Sivashinsky and smoke: exact solutions, a reference, conservation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rectiflow_pde.data.captions import smoke_caption
from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky
from rectiflow_pde.solvers.smoke import Smoke, divergence, draw_density


def test_ks_agrees_with_the_reference_until_chaos(golden):
    with np.load(golden("ks_reference.npz")) as reference:
        times = [t for t in reference["t"].tolist() if t <= 36]
        wanted = reference["u"][: len(times)]
        found = KuramotoSivashinsky().solve(reference["u0"], times)
    error = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert error.max() < 1e-6
    assert np.abs(found.mean(-1)).max() < 1e-14  # the mean is conserved


def test_a_small_ks_mode_grows_as_the_linear_equation_says():
    ks = KuramotoSivashinsky()
    u0 = 1e-7 * np.cos(2 * np.pi * 7 * ks.places / ks.length)
    [late] = ks.solve(u0, [15.0])
    growth = np.abs(np.fft.rfft(late))[7] / np.abs(np.fft.rfft(u0))[7]
    assert growth == pytest.approx(42.0336585161, rel=1e-4)


def test_on_a_short_circle_everything_decays_but_the_mean():
    ks = KuramotoSivashinsky(length=6.0, points=64, step=0.05)
    [late] = ks.solve(0.3 + 0.1 * np.cos(2 * np.pi * ks.places / 6), [60.0])
    assert late.mean() == pytest.approx(0.3, abs=1e-14)
    assert np.abs(late - 0.3).max() < 0.000260049240494


def test_ks_refuses_times_between_steps():
    with pytest.raises(ValueError, match=r"whole steps of 0\.0125"):
        KuramotoSivashinsky().solve(np.zeros(256), [0.01])
    with pytest.raises(ValueError, match="even and at least 8"):
        KuramotoSivashinsky(points=255)
    with pytest.raises(ValueError, match="length must be positive"):
        KuramotoSivashinsky(length=0)


def test_uniform_smoke_stays_at_rest():
    [late] = Smoke(buoyancy=0.5).solve(np.ones((32, 32)), [5])
    assert np.abs(late.u).max() < 1e-12
    assert np.abs(late.v).max() < 1e-12
    assert np.abs(late.density - 1).max() < 1e-12


@pytest.fixture(scope="module")
def rising():
    density = draw_density(32, torch.Generator().manual_seed(1))
    return density, Smoke(buoyancy=0.4).solve(density, [0, 4, 12])


def test_smoke_is_free_of_divergence_and_within_its_bounds(rising):
    density, states = rising
    for state in states:
        assert np.abs(divergence(state.u, state.v, np.array([1.0, 1.0]))).max() < 1e-12
        assert density.min() - 1e-12 <= state.density.min()
        assert state.density.max() <= density.max() + 1e-12
        assert not state.u[[0, -1]].any()
        assert not state.v[:, [0, -1]].any()
    assert abs(states[-1].density.sum() / density.sum() - 1) < 0.1
    assert np.abs(states[-1].v).max() > 0.1


def test_smoke_rises(rising):
    """The centre of what is heavier than the mean moves up."""
    density, states = rising
    heights = np.arange(32) + 0.5

    def centre(values):
        excess = values - density.min()
        return (excess.sum(0) * heights).sum() / excess.sum()

    assert centre(states[1].density) > centre(density)


def test_smoke_is_described():
    density = np.zeros((60, 60))
    density[5:20, 5:20] = 1
    density[28:32, 30:55] = 0.8
    told = smoke_caption(density, 0.25)
    assert told == (
        "The buoyancy factor is 0.250. Smoke rises from 2 plumes: a medium round plume at the "
        "bottom left, a medium elongated plume at the top centre."
    )
    with pytest.raises(ValueError, match="step must be positive"):
        Smoke(step=0)
