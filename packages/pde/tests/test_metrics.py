"""Metrics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.metrics.boundary import (
    coefficients,
    flux,
    flux_error,
    forces,
    imbalance,
    mean_inflow,
)
from rectiflow_pde.metrics.ensembles import calibration, crps
from rectiflow_pde.metrics.errors import correlation, is_constant, mean_error, relative_l2, vrmse
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.metrics.mesh_fields import divergence, kinetic_energy, vorticity
from rectiflow_pde.metrics.shedding import shedding
from rectiflow_pde.metrics.spectra import energy_spectrum, energy_spectrum_1d, log_ratio

T = np.arange(56) * 0.02


@pytest.fixture
def true():
    return np.random.default_rng(0).standard_normal((4, 20, 3)) * [3, 2, 1]


def test_relative_errors_of_scaled_fields(true):
    found = relative_l2(1.1 * true, true)
    assert [found.total, *found.per_channel, *found.per_frame] == pytest.approx([0.1] * 8)
    found = relative_l2(true * [1.1, 1.2, 1.4], true)
    sizes = np.linalg.norm(true, axis=(0, 1))
    assert found.per_channel == pytest.approx([0.1, 0.2, 0.4])
    wanted = np.linalg.norm(sizes * [0.1, 0.2, 0.4]) / np.linalg.norm(sizes)
    assert found.total == pytest.approx(wanted)


def test_a_field_that_is_zero_has_no_relative_error(true):
    true[..., 1] = 0
    pred = true.copy()
    pred[..., 1] = 0.1
    found = relative_l2(pred, true)
    assert found.per_channel == [0, None, 0]
    assert found.absolute == pytest.approx([0, 0.1, 0])
    assert np.isfinite(found.total)


def test_given_frames_nodes_and_padding_are_told_apart(true):
    pred = 1.1 * true
    pred[0] = true[0]
    found = relative_l2(pred, true, given_frames=1)
    assert found.without_given == pytest.approx(0.1)
    assert found.total < 0.1
    free = np.arange(20) < 8
    found = relative_l2(np.where(free[:, None], 1.1 * true, true), true, free=free)
    assert found.free_nodes == pytest.approx(0.1)
    assert found.total < 0.1
    padded = np.concatenate([true, np.full((4, 5, 3), 7.0)], 1)
    other = np.concatenate([1.1 * true, np.full((4, 5, 3), -9.0)], 1)
    found = relative_l2(other, padded, mask=np.arange(25) < 20)
    assert found.total == pytest.approx(0.1)
    with pytest.raises(ValueError, match="must have one shape"):
        relative_l2(padded, true)


def test_trajectories_are_averaged_after_their_ratios(true):
    found = [relative_l2((1 + a) * s * true, s * true) for a, s in ((0.1, 10), (0.5, 1))]
    assert mean_error(found) == pytest.approx(0.3)


def test_vrmse_of_a_wave_and_of_a_constant():
    wave = np.sin(2 * np.pi * np.arange(64) / 64)
    assert vrmse(wave + 0.25, wave) == pytest.approx(0.25 / np.sqrt(0.5 + 1e-7))
    assert vrmse(np.full(9, 3.0), np.full(9, 2.0)) == pytest.approx(3162.2777)
    assert is_constant(np.full(9, 2.0))
    assert not is_constant(wave)


def test_correlation_time_between_frames():
    x = 2 * np.pi * np.arange(64) / 64
    t = np.arange(30.0)
    rate = np.arccos(0.8) / 12.87
    true = np.tile(np.sin(x), (30, 1))
    pred = np.sin(x + rate * t[:, None])
    found = correlation(pred, true, t)
    assert found.time(0.8) == pytest.approx(12.87, abs=0.02)
    assert found.first_below(0.8) == 13
    true[4] = pred[4] = 1.0
    assert correlation(pred, true, t).per_frame[4] is None
    assert correlation(true, true, t).time(0.8) is None
    assert correlation(-true, true, t).time(0.8) == 0


SIGNALS = {
    "drift": (0.4 * np.sin(2 * np.pi * 3.07 * T + 0.3) + 0.5 * T, 0.307, "shedding"),
    "harmonic": (
        np.sin(2 * np.pi * 3.07 * T) + 0.4 * np.sin(2 * np.pi * 9.21 * T),
        0.307,
        "shedding",
    ),
    "growing": (0.1 * np.exp(1.5 * T) * np.sin(2 * np.pi * 3.07 * T), 0.307, "growing"),
    "settling": (np.exp(-1.5 * T) * np.sin(2 * np.pi * 3.07 * T), 0.307, "settling"),
    "steady": (1e-4 * np.sin(2 * np.pi * 3.07 * T), None, "steady"),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_strouhal_of_a_signal(name):
    signal, strouhal, regime = SIGNALS[name]
    found = shedding(T, signal)
    assert found.regime == regime
    assert found.strouhal(0.1, 1.0) == (strouhal and pytest.approx(strouhal, rel=0.02))
    assert bool(found.reason) == (strouhal is None)


def test_too_few_periods_and_aliases_have_no_frequency():
    short = T[:22]
    found = shedding(short, np.sin(2 * np.pi * 3.07 * short))
    assert "periods; expected at least 2" in found.reason
    coarse = 0.24 * np.arange(40)
    assert "may be an alias" in shedding(coarse, np.sin(2 * np.pi * 3 * coarse)).reason
    with pytest.raises(ValueError, match="evenly spaced"):
        shedding(T**2, T)


def test_below_the_onset_a_wake_settles():
    assert shedding(T, SIGNALS["drift"][0], reynolds=40).regime == "settling"


def test_spectrum_sums_to_the_energy_and_bins_by_length():
    x = 2 * np.pi * np.arange(32) / 32
    u = 0.6 * np.cos(3 * x[:, None] + 4 * x) * np.ones((32, 32))
    found = energy_spectrum(u, 0 * u)
    assert found.argmax() == 5
    assert found[5] == pytest.approx(0.09)
    noise = np.random.default_rng(1).standard_normal((2, 16, 16))
    assert energy_spectrum(*noise).sum() == pytest.approx((noise**2).sum(0).mean() / 2)
    line = energy_spectrum_1d(np.sin(5 * x))
    assert line[5] == pytest.approx(0.25)


def test_log_ratio_of_bands():
    true = np.arange(1.0, 65) ** -2
    assert log_ratio(2 * true, true) == pytest.approx(np.log(2))
    assert np.isnan(log_ratio(0 * true, true)).all()


def test_divergence_of_linear_fields(mesh):
    x, y = mesh.points.T
    found = divergence(mesh, x, 0.5 * y)
    assert found.ratio == pytest.approx(1.5 / np.sqrt(1.25))
    assert found.l2 == pytest.approx(1.5 * np.sqrt(mesh.areas.sum()))
    assert found.weak.sum() == pytest.approx(1.5 * mesh.areas.sum())
    assert np.allclose(found.weak, 1.5 * mesh.node_areas)
    rotation = divergence(mesh, -y, x)
    assert rotation.ratio == pytest.approx(0, abs=1e-9)
    assert np.allclose(vorticity(mesh, -y, x), 2)
    assert divergence(mesh, 0 * x, 0 * x).ratio == 0
    assert divergence(mesh, np.stack([x, x]), np.stack([y, y])).weak.shape == (2, mesh.n_nodes)


def second_moment(mesh):
    """``int x²`` by the middles of edges, exact for squares."""
    corners = mesh.points[mesh.triangles, 0]
    middles = (corners + np.roll(corners, 1, 1)) / 2
    return (mesh.areas * (middles**2).mean(1)).sum()


def test_kinetic_energy_has_the_full_mass_matrix(mesh):
    x, zero = mesh.points[:, 0], np.zeros(mesh.n_nodes)
    assert kinetic_energy(mesh, zero + 1, zero) == pytest.approx(mesh.areas.sum() / 2)
    assert kinetic_energy(mesh, x, zero) == pytest.approx(second_moment(mesh) / 2)


def polygon_area(mesh):
    return 1.6 * 0.41 - mesh.areas.sum()


def test_forces_point_downstream_and_ignore_the_gauge(mesh):
    x = mesh.points[:, 0]
    zero = np.zeros(mesh.n_nodes)
    found = forces(mesh, zero, zero, -x, 1e-3)
    assert found == pytest.approx([polygon_area(mesh), 0], abs=1e-9)
    assert forces(mesh, zero, zero, zero + 101_325, 1e-3) == pytest.approx([0, 0], abs=1e-6)
    assert coefficients(np.array([0.16, 0]), 1.0, 0.1)[0] == pytest.approx(3.2)


def test_lift_of_potential_flow_is_that_of_kutta_and_joukowski(mesh):
    """``-rho U G``, short by sin(a)/a for nodes that are an angle a apart."""
    angle = np.arctan2(mesh.points[:, 1] - 0.2, mesh.points[:, 0] - 0.3)
    around = -2 * np.sin(angle) + 0.5 / (2 * np.pi * 0.05)
    zero = np.zeros(mesh.n_nodes)
    found = forces(mesh, zero, zero, (1 - around**2) / 2, 1e-3)
    step = 2 * np.pi / len(mesh.edges_of(NodeType.OBSTACLE))
    assert found[1] == pytest.approx(-0.5 * np.sin(step) / step, rel=1e-5)
    assert found[0] == pytest.approx(0, abs=1e-9)


def test_shear_of_a_linear_velocity(mesh):
    """A constant gradient pulls nowhere on a closed line, whatever the viscosity."""
    x, y = mesh.points.T
    found = forces(mesh, 2 * x + 3 * y, x - y, 0 * x, 5.0)
    assert found == pytest.approx([0, 0], abs=1e-9)


def test_flux_of_a_parabola_is_short_by_the_square_of_its_edges(mesh):
    y = mesh.points[:, 1]
    u, v = 4 * 1.2 * y * (0.41 - y) / 0.41**2, np.zeros(mesh.n_nodes)
    exact = 0.8 * 0.41
    count = len(mesh.edges_of(NodeType.INFLOW))
    short = flux_error(mesh, NodeType.INFLOW)
    assert short == pytest.approx(1 / count**2, rel=0.02)  # exactly so for even edges
    assert -flux(mesh, u, v, NodeType.INFLOW) == pytest.approx(exact * (1 - short))
    assert mean_inflow(mesh, u) == pytest.approx(0.8)
    share, allowed = imbalance(mesh, u, v)
    assert abs(share) <= allowed < 0.05
    assert np.isnan(imbalance(mesh, 0 * u, v)[0])


def test_interpolation_is_exact_inside_and_marked_outside(mesh):
    values = 1 + 2 * mesh.points[:, 0] - 3 * mesh.points[:, 1]
    places = [[0.6, 0.2], [1.55, 0.1367], [0.16, 0.409], [0.3, 0.2], [1.61, 0.2], *mesh.points[:3]]
    found = interpolation(mesh, np.array(places))
    assert found.outside.tolist() == [False] * 3 + [True] * 2 + [False] * 3
    wanted = [1 + 2 * x - 3 * y for x, y in np.array(places)[~found.outside]]
    assert found(values)[~found.outside] == pytest.approx(wanted)
    assert np.isnan(found(np.stack([values, values]))[:, 3:5]).all()


def test_crps_and_calibration():
    members = np.array([[0.0], [1.0], [3.0]])
    plain, fair = crps(members, np.array([2.0]))
    pairs = np.abs(members - members.T)
    assert plain == pytest.approx(4 / 3 - pairs.mean() / 2)
    assert fair == pytest.approx(4 / 3 - pairs.sum() / 6 / 2)
    draws = np.random.default_rng(2).standard_normal((9, 20_000))
    found = calibration(draws[:8], draws[8])
    assert found.corrected == pytest.approx(1, abs=0.02)
    assert found.ratio < found.corrected
    with pytest.raises(ValueError, match="at least 2 members"):
        calibration(members[:1], np.array([2.0]))
