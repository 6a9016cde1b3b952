"""Readings as measurements of latents, kriging, and flows that obey."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rectiflow.inverse import Projected, check_adjoint
from rectiflow_pde import sampling
from rectiflow_pde.assimilation import Expected, assimilate, measurement_of
from rectiflow_pde.comparison import compare_assimilations, held_back
from rectiflow_pde.incompressible import Incompressible, held
from rectiflow_pde.kriging import Kernel, fitted_kernel, kriged
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.metrics.mesh_fields import divergence
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.readings import (
    Readings,
    at_readings,
    read_off,
    read_readings,
    write_readings,
)
from rectiflow_pde.request import make_request

WORDS = "flow past a cylinder of radius 0.05 at Re 120"


@pytest.fixture(scope="module")
def pipe():
    return SimulationPipeline.from_pretrained("small")


@pytest.fixture(scope="module")
def made(pipe):
    """A flow of the checkpoint, on a mesh of the prompt."""
    return pipe(WORDS, steps=1)


def places_in(mesh, count, seed=0):
    inner = np.flatnonzero(mesh.nodes_of(NodeType.FLUID))
    return mesh.points[np.random.default_rng(seed).choice(inner, count, replace=False)]


def readings_of(flow, places):
    times = flow.times - flow.times[0]
    values = read_off(flow, places)
    frames, count, _ = values.shape
    at = np.broadcast_to(places, (frames, count, 2)) if places.ndim == 2 else places.swapaxes(0, 1)
    shape = (frames, count, 3)
    return Readings(
        np.broadcast_to(at[:, :, None], (*shape, 2)).reshape(-1, 2),
        np.broadcast_to(times[:, None, None], shape).ravel(),
        np.broadcast_to(np.arange(3), shape).ravel(),
        values.ravel().astype(float),
    )


def test_the_nearest_flow_without_divergence(mesh, flow):
    hold = Incompressible(mesh, 1.2 * 2 / 3)
    rng = np.random.default_rng(0)
    rough = flow.stacked + 0.1 * rng.standard_normal((*flow.stacked.shape[:2], 3)).astype("f4")
    found = hold(rough)
    before, after = (divergence(mesh, f[..., 0], f[..., 1]).weak for f in (rough, found))
    assert np.abs(after).max() < 1e-4 * np.abs(before).max()
    still = mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE)
    assert not found[:, still, :2].any()
    inflow = mesh.nodes_of(NodeType.INFLOW)
    y = mesh.points[inflow, 1]
    np.testing.assert_allclose(found[0, inflow, 0], 6 * 0.8 * y * (0.41 - y) / 0.41**2, rtol=1e-5)
    assert np.array_equal(found[..., 2], rough[..., 2])
    again = hold(found)
    np.testing.assert_allclose(again, found, atol=1e-5)
    # Nearest: what was moved is a gradient, at right angles to every flow that obeys.
    other = hold(flow.stacked)
    moved = (rough - found)[0, :, :2]
    moved[hold.held] = 0
    off = ((found - other)[0, :, :2] * moved * mesh.node_areas[:, None]).sum()
    assert abs(off) < 1e-3 * (moved**2 * mesh.node_areas[:, None]).sum()


def test_predictions_are_held_on_the_way(pipe, made):
    flow = made.flows[0]
    hold = Incompressible(flow.mesh, flow.parameters["u_mean"])
    correct = held(pipe.codec, pipe.settings.raster, hold, flow.parameters["u_mean"])
    z = torch.randn(2, *pipe.codec.latent_shape, generator=torch.Generator().manual_seed(0))
    v = torch.zeros_like(z)
    assert correct(z, 0.2, v)[0] is z
    moved, _ = correct(z, 1.0, v)  # at the data, the state is the prediction
    request = make_request(WORDS)
    rough, smooth = (sampling.fields(pipe, each, flow.mesh, request) for each in (z, moved))
    div = [divergence(flow.mesh, f[..., 0], f[..., 1]).weak.std() for f in (rough, smooth)]
    off = [np.linalg.norm(hold(f) - f) for f in (rough, smooth)]
    assert div[1] < 0.9 * div[0]
    assert off[1] < 0.7 * off[0]
    alone = correct(z[1:], 1.0, v[1:])[0]
    np.testing.assert_allclose(alone, moved[1:], atol=1e-4)


def test_readings_are_linear_in_latents(pipe, made):
    """The operator on latents gives what the decoded flow reads."""
    flow, request = made.flows[0], make_request(WORDS)
    places = places_in(request.mesh, 5)
    moving = places[:, None] + np.linspace(0, 0.02, len(flow.times))[None, :, None] * [1, 0]
    z = torch.randn(2, *pipe.codec.latent_shape, generator=torch.Generator().manual_seed(0))
    for where in (places, moving):
        readings = readings_of(flow, where)
        measured = measurement_of(pipe, request, readings, 0.0)
        check_adjoint(measured.operator, pipe.codec.latent_shape, dtype=torch.float32)
        grid = np.moveaxis(pipe.codec.decode(z)[0].numpy(), (0, 3), (3, 0))
        grid = grid * pipe.settings.scaling.units(request.numbers)
        direct = np.array(
            [
                pipe.settings.raster.to_points(grid, readings.places[i : i + 1])[
                    round(readings.times[i] / 0.05), 0, readings.which[i]
                ]
                for i in range(0, len(readings.values), 50)
            ]
        )
        units = pipe.settings.scaling.units(request.numbers)[readings.which[::50]]
        found = measured.residual(z)[0, ::50].numpy() * units + readings.values[::50]
        np.testing.assert_allclose(found, direct, rtol=1e-3, atol=1e-3)


def test_assimilation_comes_nearer_and_holds(pipe, made):
    """Sensors of another flow of the checkpoint: nearer than the prior, without divergence."""
    truth = pipe(WORDS, steps=2, seed=7).flows[0]
    readings = readings_of(truth, places_in(truth.mesh, 32))
    told = {"evaluations": 2, "method": Projected(), "num": 2}
    found = assimilate(pipe, readings, WORDS, **told)
    assert found.settings["readings"] == len(readings.values)
    hold = Incompressible(truth.mesh, truth.parameters["u_mean"])
    target, prior = hold(truth.stacked), hold(made.flows[0].stacked)
    away = np.linalg.norm(prior - target)
    for flow in found.flows:
        assert np.linalg.norm(flow.stacked - target) < 0.85 * away
        weak = divergence(flow.mesh, flow.fields["u"], flow.fields["v"]).weak
        assert np.abs(weak).max() < 1e-6
    assert not np.array_equal(found.flows[0].fields["u"], found.flows[1].fields["u"])
    one = assimilate(pipe, readings, WORDS, **told | {"num": 1, "indices": [1]})
    np.testing.assert_allclose(one.flows[0].stacked, found.flows[1].stacked, atol=2e-3)


def test_methods_are_judged_by_sensors_that_they_were_not_told(pipe):
    truth = pipe(WORDS, steps=2, seed=7).flows[0]
    readings = readings_of(truth, places_in(truth.mesh, 15))
    away = held_back(readings)
    assert away.sum() == 3 * len(truth.times) * 3  # whole sensors
    told, held = (np.unique(readings.places[rows], axis=0) for rows in (~away, away))
    assert len(told) == 12
    assert not {map(tuple, told)} & {map(tuple, held)}
    methods = {"prior mean": Expected(), "led": Projected()}
    rows = compare_assimilations(pipe, readings, WORDS, methods=methods, evaluations=2)
    by_name = {row.method: row for row in rows}
    again = assimilate(pipe, readings.of(~away), WORDS, method=Projected(), evaluations=2)
    [flow] = again.flows
    rest = readings.of(away & (readings.which == 1))
    found = at_readings(flow.stacked, flow.mesh, flow.times - flow.times[0], rest)
    expected = np.sqrt(np.mean((found - rest.values) ** 2)) / flow.parameters["u_mean"]
    assert by_name["led"].v == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="got 3 places"):
        held_back(readings_of(truth, places_in(truth.mesh, 3)))


def test_kriging_is_exact_where_it_reads_and_finds_what_travels():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.random(300) * 1.6, rng.random(300) * 0.4, rng.random(300)])
    values = np.sin(12 * (points[:, 0] - 0.7 * points[:, 2]))
    found = fitted_kernel(points, values, 0.01, speeds=(0.0, 0.7), times=(0.2, 3.2))
    assert found.speed == 0.7
    places, times = np.column_stack([rng.random(50) * 1.5, rng.random(50) * 0.4]), np.array([0.5])
    truth = np.sin(12 * (places[:, 0] - 0.35))
    still = Kernel(found.length, 0.2)
    errors = [
        np.abs(kriged(points, values, 0.01, kernel, places, times)[0] - truth).mean()
        for kernel in (found, still)
    ]
    assert errors[0] < 0.5 * errors[1]
    back = kriged(points, values, 0.0, found, points[:1, :2], points[:1, 2])
    assert back[0, 0] == pytest.approx(values[0], abs=1e-4)


def test_tables_of_readings(tmp_path, flow):
    places = places_in(flow.mesh, 3)
    values = read_off(flow, places)
    at = np.broadcast_to(places, (6, 3, 2))
    write_readings(tmp_path / "r.csv", at, flow.times, values[..., :2])
    found = read_readings(tmp_path / "r.csv")
    assert len(found.values) == 6 * 3 * 2
    np.testing.assert_allclose(found.values[::2], values[..., 0].ravel(), rtol=1e-5, atol=1e-6)
    (tmp_path / "some.csv").write_text("x, y, t, u, p\n0.5,0.2,0.1,1.0,\n0.6,0.2,0.1,,0.3\n")
    some = read_readings(tmp_path / "some.csv")
    assert some.which.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,y,u\n0,0,1\n", "no column t"),
        ("x,y,t\n0,0,1\n", "no column of a field"),
        ("x,y,t,u\n0.5,0.2,0,one\n", "line 2: a cell is no number"),
        ("x,y,t,u\n0.5,0.2,0,nan\n", "line 2: a cell is not finite"),
        ("x,y,t,u\n", "no reading"),
        ("x,y,t,u\n0.3,0.2,0,1\n", "outside of the mesh"),
        ("x,y,t,u\n0.8,0.2,9,1\n", "outside of the simulation"),
        ("x,y,t,u\n2.8,0.2,0,1\n", "1 sensors are outside"),
    ],
)
def test_bad_readings_are_told(tmp_path, pipe, text, said):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        assimilate(pipe, read_readings(path), f"{WORDS}, at position 0.3, 0.2")


def test_readings_must_be_finite():
    with pytest.raises(ValueError, match="values of readings must be finite"):
        Readings(np.zeros((1, 2)), np.zeros(1), np.zeros(1, int), np.array([np.nan]))


def test_only_linear_codecs_can_be_measured(pipe):
    assert sampling.noise_of(pipe, [0], 0).shape[1:] == pipe.codec.latent_shape
    other = SimpleNamespace(codec=torch.nn.Identity(), settings=pipe.settings)
    readings = Readings(np.full((1, 2), 0.2), np.zeros(1), np.zeros(1, int), np.ones(1))
    with pytest.raises(ValueError, match="linear in the flow"):
        measurement_of(other, make_request(WORDS), readings, 0.0)
