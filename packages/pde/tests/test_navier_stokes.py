"""The flow solver: exact solutions, divergence, forces, order in time."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.solvers.cylinder import CylinderFlow, solve_cylinder, solve_flow
from rectiflow_pde.solvers.navier_stokes import DivergedError, NavierStokes
from rectiflow_pde.solvers.taylor_hood import TaylorHood

HEIGHT = 0.41


def parabola(y, peak=1.5):
    return 4 * peak * y * (HEIGHT - y) / HEIGHT**2


@pytest.fixture(scope="module")
def empty() -> Mesh:
    return mesh_channel(Channel(radius=0), far=0.08)


@pytest.fixture(scope="module")
def space(mesh) -> TaylorHood:
    return TaylorHood(mesh)


def test_operators_are_exact_on_polynomials(space, mesh):
    x, y = space.places.T
    assert space.mass.sum() == pytest.approx(mesh.areas.sum())
    assert np.abs(space.divergence @ np.stack([x**2, -2 * x * y]).ravel()).max() < 1e-15
    twice = space.divergence @ np.stack([x, y]).ravel()
    assert np.allclose(twice, 2 * mesh.node_areas, atol=1e-15)
    carried = space.convection(np.stack([x, 2 * y]))
    assert np.allclose(carried, [space.mass @ x, space.mass @ (4 * y)], atol=1e-14)


def test_poiseuille_flow_is_held_exactly(empty):
    solver = NavierStokes(empty, 1e-3, parabola)
    y = solver.space.places[:, 1]
    *_, last = solver.run(solver.stokes(), [0.2], step=0.01)
    assert np.abs(last.velocity[0] - parabola(y)).max() < 1e-9
    assert np.abs(last.velocity[1]).max() < 1e-9
    wanted = 8 * 1e-3 * 1.5 / HEIGHT**2 * (1.6 - empty.points[:, 0])
    assert np.allclose(last.pressure, wanted, atol=1e-9)
    assert wanted.max() == pytest.approx(0.114217727543)


def test_divergence_is_round_off_in_the_weak_form(mesh):
    solver = NavierStokes(mesh, 1e-3, parabola)
    for state in solver.run(solver.stokes(), [0.01]):
        assert np.abs(solver.space.divergence @ state.velocity.ravel()).max() < 1e-15


def test_the_force_is_that_of_the_control_volume(mesh):
    """In steady Stokes flow what the obstacle takes is what pressure and walls do not balance."""
    solver = NavierStokes(mesh, 1.0, parabola)
    state = solver.stokes()
    space, size = solver.space, solver.space.size
    traction = space.stiffness @ state.velocity[0]
    traction -= space.divergence[:, :size].T @ state.pressure
    others = space.kinds != NodeType.OBSTACLE
    assert state.force[0] > 0
    assert state.force[0] == pytest.approx(traction[others].sum(), rel=1e-9)


def test_third_order_in_time(empty):
    """Halving the step of a flow that a force drives up divides the error by about 8."""

    def run(step):
        solver = NavierStokes(empty, 0.05, lambda y: 0 * y + 1e-3)
        body = np.stack([np.sin(9 * solver.space.places[:, 1]), 0 * solver.space.places[:, 0]])
        states = solver.run(
            solver.stokes(), [0.4], step=step, force=lambda t: body * np.sin(3 * t) ** 4
        )
        *_, last = states
        return last.velocity

    fine = run(0.4 / 256)
    errors = [np.abs(run(0.4 / n) - fine).max() for n in (16, 32)]
    assert 5.5 < errors[0] / errors[1] < 12


def test_an_unstable_step_is_told(mesh):
    solver = NavierStokes(mesh, 1e-3, parabola)
    with pytest.raises(DivergedError, match=r"grew without bound.*expected a stable one"):
        list(solver.run(solver.stokes(), [4.0], step=20 * solver.stable_step()))


def test_a_mesh_without_outflow_is_refused(mesh):
    closed = Mesh(
        mesh.points, mesh.triangles, np.where(mesh.node_type == 2, NodeType.WALL, mesh.node_type)
    )
    with pytest.raises(ValueError, match="mesh has no outflow"):
        NavierStokes(closed, 1e-3, parabola)


@pytest.fixture(scope="module")
def solved(channel):
    flow = CylinderFlow(channel, 0.8, times=(0.1, 0.15, 0.2), edge=0.0196, far=0.06)
    return solve_cylinder(flow)


def test_a_solved_flow_keeps_its_boundary_values(solved):
    flow = solved.trajectory
    mesh, u = flow.mesh, flow.fields["u"]
    still = mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE)
    enters = mesh.nodes_of(NodeType.INFLOW)
    assert not u[:, still].any()
    assert np.allclose(u[:, enters], parabola(mesh.points[enters, 1], 1.2), atol=1e-6)
    assert flow.parameters["reynolds"] == pytest.approx(80)
    assert "velocity of 0.80. The Reynolds number is 80." in flow.caption


def test_a_window_solved_again_from_its_first_frame_stays_near(solved):
    """Only vertices are kept: what the middles of edges lose is seen at once, and stays small."""
    flow = solved.trajectory
    first = np.stack([flow.fields["u"][0], flow.fields["v"][0]])
    again = solve_flow(flow.mesh, flow.parameters, flow.times, initial=first)
    error = again.stacked - flow.stacked
    assert np.linalg.norm(error[..., :2]) < 0.08 * np.linalg.norm(flow.stacked[..., :2])
    assert np.isfinite(again.fields["p"]).all()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"viscosity": 0.0}, "viscosity must be positive, got 0"),
        ({"u_mean": -1.0}, "mean inflow must be positive, got -1"),
        ({"edge": 0.011, "step": 0.005}, "0.005 s is unstable.*largest stable one is 0.000807 s"),
        ({"edge": 0.06}, "too coarse: 5 around"),
        ({"times": (0.2, 0.1)}, "times must increase"),
    ],
)
def test_the_impossible_is_refused_before_the_solver(told, words):
    with pytest.raises(ValueError, match=words):
        CylinderFlow(**told)


def test_frames_that_alias_are_warned_of():
    [warning] = CylinderFlow(u_mean=1.0, times=(0.0, 0.24, 0.48)).warnings()
    assert "0.24 s apart are 0.72 of the shedding period" in warning
    assert "aliased" in warning
    assert not CylinderFlow(u_mean=1.0, times=(0.0, 0.05)).warnings()
