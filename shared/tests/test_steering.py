"""A correction inside any solver, at that solver's own cost."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import counted
from rectiflow.grids import log_snr, uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    RK4,
    Adams,
    DPMSolver2,
    DPMSolverPP2M,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
    PseudoCorrector,
    Solver,
)
from rectiflow.steering import Steer

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SEEN = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
Y = torch.tensor([1.1, 0.0, -0.4], dtype=torch.float64)
MEAN, VARIANCE = 0.2, 0.5
FLOW = GaussianMixtureFlow(torch.ones(1), torch.full((1, 3), MEAN), VARIANCE * torch.eye(3)[None])
SOLVERS = [
    Euler(),
    Midpoint(),
    Heun(),
    RK4(),
    FireFlow(),
    PseudoCorrector(),
    Adams(2),
    Adams(4),
    GHVB(2, 0.8),
    BDIA(),
    BDIA(0.7),
    DDIM(),
    DPMSolver2(),
    DPMSolverPP2M(),
]


@dataclasses.dataclass(frozen=True)
class FlowChef:
    """Move the state down the gradient of ``|mask (D - y)|² / 2``, taken at the prediction D."""

    eta: float

    def __call__(self, x, t, v):
        return x - self.eta * SEEN * (x + (1 - t) * v - Y), v


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_correction_costs_nothing(solver):
    for steps in (10, 12):
        field = counted(FLOW)
        moves = plan(uniform(steps), Steer(solver, FlowChef(0.5)))
        integrate(field, X, moves)
        assert field.calls == moves.nfe == plan(uniform(steps), solver).nfe


def test_flowchef_around_fireflow_takes_eleven_calls_for_ten_steps():
    field = counted(FLOW)
    integrate(field, X, plan(uniform(10), Steer(FireFlow(), FlowChef(0.5))))
    assert field.calls == 11


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("grid", [uniform(20), log_snr(20, 0.02, 0.98)], ids=["ends", "inside"])
def test_a_correction_steers_every_solver(solver, grid):
    """What is observed ends at the observation; the rest is left as it was, bit by bit."""
    free = integrate(FLOW, X, plan(grid, solver))
    end = integrate(FLOW, X, plan(grid, Steer(solver, FlowChef(0.9))))
    assert ((free - Y) * SEEN).abs().max() > 1.0
    assert ((end - Y) * SEEN).abs().max() < 0.12
    torch.testing.assert_close(end[:, 1], free[:, 1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_no_correction_is_no_change(solver):
    moves = plan(uniform(12), solver)
    steered = plan(uniform(12), Steer(solver, lambda x, t, v: (x, v)))
    assert torch.equal(integrate(FLOW, X, steered), integrate(FLOW, X, moves))


@pytest.mark.parametrize(
    ("steps", "eta", "expected"),
    [
        (10, 0.1, -0.1724166252),
        (10, 0.5, 0.0690201719),
        (50, 0.1, 0.1001933339),
        (50, 0.5, 1.620461e-3),
        (200, 0.1, 4.920292e-3),
        (200, 0.5, 9.236e-5),
        (200, 1.0, 0.0),
    ],
)
def test_the_scalar_recursion_of_flowchef(steps, eta, expected):
    """Gaussian data of mean 0.2 and variance 0.5, y = 1.1, from x0 = 0.3."""
    flow = GaussianMixtureFlow(torch.ones(1), torch.tensor([[0.2]]), torch.tensor([[[0.5]]]))
    start = torch.tensor([[0.3]], dtype=torch.float64)
    solver = Steer(Euler(), lambda x, t, v: (x - eta * (x + (1 - t) * v - 1.1), v))
    end = integrate(flow, start, plan(uniform(steps), solver))
    assert end.item() - 1.1 == pytest.approx(expected, abs=2e-9, rel=1e-4)


def test_a_correction_of_data_and_kept_noise():
    """Under Euler the state ends at ``t D' + (1 - t) E`` exactly."""
    stop = 0.7

    def replace_data(x, t, v):
        noise = x - t * v
        return t * Y + (1 - t) * noise, Y - noise

    v = FLOW(X, 0.4)
    end = integrate(FLOW, X, plan([0.4, stop], Steer(Euler(), replace_data)))
    torch.testing.assert_close(end, stop * Y + (1 - stop) * (X - 0.4 * v), rtol=0, atol=1e-14)


def test_corrections_of_the_velocity_reach_the_move():
    end = integrate(FLOW, X, plan(uniform(5), Steer(Euler(), lambda x, t, v: (x, 0 * v))))
    assert torch.equal(end, X)


def test_corrections_nest_in_the_order_of_writing():
    add = Steer(Euler(), lambda x, t, v: (x + 1.0, v))
    both = Steer(add, lambda x, t, v: (2.0 * x, v))
    end = integrate(lambda x, t: 0 * x, X, plan([0.0, 1.0], both))
    torch.testing.assert_close(end, 2.0 * X + 1.0)


def test_steered_solvers_are_values():
    assert Steer(FireFlow(), FlowChef(0.5)) == Steer(FireFlow(), FlowChef(0.5))
    assert eval(repr(Steer(Adams(2), FlowChef(0.5)))) == Steer(Adams(2), FlowChef(0.5))


def test_a_memory_of_steered_moves_goes_on():
    moves = plan(uniform(12), Steer(Adams(4), FlowChef(0.5)))
    half, memory = integrate(FLOW, X, moves[:5], return_memory=True)
    end = integrate(FLOW, half, moves[5:], memory=memory)
    assert torch.equal(end, integrate(FLOW, X, moves))


def test_a_solver_that_cannot_be_steered_says_so():
    class Deaf(Solver):
        order = nfe = 1

        def step(self, field, x, start, stop, context):
            return x + (stop - start) * field(x, start), None

    with pytest.raises(TypeError, match=r"was not steered, got a move that does not begin with"):
        integrate(FLOW, X, plan(uniform(2), Steer(Deaf(), FlowChef(0.5))))
