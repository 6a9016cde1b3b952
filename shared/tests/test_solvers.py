from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import rectiflow.paths
import rectiflow.solvers
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import counted
from rectiflow.grids import log_snr, shifted, uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.paths import VariancePreserving
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    Adams,
    ButcherTableau,
    Context,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
    PseudoCorrector,
    Refine,
    RungeKutta,
    Solver,
    combine,
    fast_plan,
)
from rectiflow.solvers.adams import adams_weights

T_MIN, T_MAX = 0.02, 0.98


@dataclasses.dataclass(frozen=True)
class Ralston(Solver):
    """A method of a user, in twenty lines."""

    order = 2
    nfe = 2

    def step(self, field, x, start, stop, context):
        h = stop - start
        x, v = context.begin(field, x, start)
        later = field(context.space.move(x, v, 2 / 3 * h), start + 2 / 3 * h)
        moved = combine((1.0, h / 4, 3 * h / 4), (x, v, later))
        return moved, context.remember(start, stop, state=x, velocity=v)


KUTTA3 = ButcherTableau(a=((0.5,), (-1.0, 2.0)), b=(1 / 6, 2 / 3, 1 / 6), c=(0.5, 1.0))


def covariance(angle: float, first: float, second: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return turn @ torch.diag(torch.tensor([first, second], dtype=torch.float64) ** 2) @ turn.T


def smooth_flow(path=None) -> GaussianMixtureFlow:
    """The wide, overlapping mixture on which orders are visible from few steps."""
    return GaussianMixtureFlow(
        torch.tensor([0.6, 0.4], dtype=torch.float64),
        torch.tensor([[0.8, 0.0], [-0.6, 0.5]], dtype=torch.float64),
        torch.stack((covariance(0.3, 0.9, 0.7), covariance(-0.6, 0.8, 0.6))),
        path=path,
    )


FLOW = smooth_flow()
X0 = torch.from_numpy(np.random.default_rng(5).standard_normal((64, 2)))


@pytest.fixture(scope="module")
def exact() -> torch.Tensor:
    return FLOW.flow_map(X0, tolerance=1e-12)


@pytest.fixture(scope="module")
def exact_inside() -> tuple[torch.Tensor, torch.Tensor]:
    begin = FLOW.flow_map(X0, 0.0, T_MIN, tolerance=1e-12)
    return begin, FLOW.flow_map(begin, T_MIN, T_MAX, tolerance=1e-12)


def rms(x: torch.Tensor, y: torch.Tensor) -> float:
    return (x - y).square().mean().sqrt().item()


def error(solver, grid, begin, end, field=FLOW) -> float:
    return rms(integrate(field, begin, plan(grid, solver)), end)


ORDERS = [
    (Euler(), 1.0),
    (Midpoint(), 2.0),
    (Heun(), 1.99),
    (RungeKutta(KUTTA3, order=3), 3.0),
    (RK4(), 4.0),
    (FireFlow(), 1.99),
    (PseudoCorrector(), 1.99),
    (Adams(2), 2.0),
    (Adams(3), 3.0),
    (Adams(4), 3.99),
    (Adams(4, start=None), 2.0),
    (GHVB(1, 0.5), 0.99),
    (GHVB(2, 0.8), 2.02),
    (GHVB(3, 0.5, start=None), 1.98),
    (GHVB(4, 0.5, start=None), 2.0),
    (GHVB(3, 0.5), 3.0),
    (GHVB(4, 0.8), 4.0),
    (HB(2, 0.8), 1.0),
    (HB(4, 0.8), 1.0),
    (BDIA(), 2.0),
    (BDIA(0.5), 1.0),
    (DPMSolverPP2M(), 1.83),
]


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=lambda value: str(value))
def test_order_on_a_smooth_field(solver, order, exact):
    steps = 128 if solver.nfe == 1 else 64
    coarse, fine = (error(solver, uniform(n), X0, exact) for n in (steps, 2 * steps))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), ORDERS[:-1], ids=lambda value: str(value))
def test_declared_order(solver, order):
    limited_by_start = getattr(solver, "start", RK4()) is None and solver.order > 2
    assert limited_by_start or solver.order == round(order)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Euler(), [0.23, 0.12, 0.063, 0.032]),
        (Midpoint(), [2.1e-3, 5.0e-4, 1.3e-4, 3.3e-5]),
        (Heun(), [7.5e-3, 1.3e-3, 3.4e-4, 9.0e-5]),
        (RK4(), [8.9e-5, 3.8e-6, 2.0e-7, 1.2e-8]),
    ],
    ids=lambda value: str(value),
)
def test_reference_errors(solver, expected, exact):
    measured = [error(solver, uniform(n), X0, exact) for n in (4, 8, 16, 32)]
    assert measured == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("solver", "low", "high"),
    [
        (DDIM(), 0.9, 1.1),
        (DPMSolver2(), 1.9, 2.1),
        (DPMSolver3(), 2.8, 3.2),
        (DPMSolverPP2S(), 1.9, 2.1),
        (DPMSolverPP2M(), 1.9, 2.3),
        (DPMSolverPP3M(lower_order_final=False, curvature_weight=1.0), 1.9, 2.2),
        (DPMSolverPP3M(), 2.7, 3.0),
    ],
    ids=lambda value: str(value),
)
def test_order_in_log_snr(solver, low, high, exact_inside):
    coarse, fine = (error(solver, log_snr(n, T_MIN, T_MAX), *exact_inside) for n in (64, 128))
    assert low <= math.log2(coarse / fine) <= high


def test_order_of_dpm_solver_on_its_own_path():
    path = VariancePreserving()
    flow = smooth_flow(path)
    begin = flow.flow_map(X0, 0.0, 0.1, tolerance=1e-12)
    end = flow.flow_map(begin, 0.1, 0.95, tolerance=1e-12)
    for solver, order in [(DPMSolver3(path), 3), (DPMSolverPP2M(path), 2)]:
        coarse, fine = (
            error(solver, log_snr(n, 0.1, 0.95, path), begin, end, flow) for n in (32, 64)
        )
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.3)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_adams_keeps_its_order_on_uneven_grids(order, exact):
    coarse, fine = (error(Adams(order), shifted(n, 3.0), X0, exact) for n in (64, 128))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.2)


# Real-axis stability: |h lambda| below which the iterates of x' = -lambda x stay bounded.
STABILITY = {
    1: {1.0: 2.00, 0.8: 3.00, 0.5: 6.00, 0.2: 18.00},
    2: {1.0: 1.00, 0.8: 1.20, 0.5: 1.50, 0.2: 1.80},
    3: {1.0: 0.55, 0.8: 0.64, 0.5: 0.78, 0.2: 0.92},
    4: {1.0: 0.30, 0.8: 0.35, 0.5: 0.43, 0.2: 0.50},
}


@pytest.mark.parametrize(
    ("terms", "beta", "bound"),
    [(m, beta, bound) for m, row in STABILITY.items() for beta, bound in row.items()],
)
def test_stability_interval(terms, beta, bound):
    rates = bound + torch.tensor([-0.02, 0.02], dtype=torch.float64)
    steps = [float(n) for n in range(1500)]  # h = 1
    begin = torch.ones(2, dtype=torch.float64)
    moves = plan(steps, GHVB(terms, beta, start=None))
    inside, outside = integrate(lambda x, t: -rates * x, begin, moves).abs().tolist()
    assert inside < 1.0 < outside


def test_ghvb_bounds_match_their_formulas():
    for beta, bound in STABILITY[1].items():
        assert bound == pytest.approx(2 * (2 - beta) / beta)
    for beta, bound in STABILITY[2].items():
        assert bound == pytest.approx(2 - beta)


def test_midpoint_is_rf_solver():
    """The published step: Taylor expansion with a finite-difference derivative."""
    x = X0
    for start, stop, _ in plan(uniform(8), Midpoint()):
        h = stop - start
        v0 = FLOW(x, start)
        middle = FLOW(x + h / 2 * v0, start + h / 2)
        x = x + h * v0 + h**2 / 2 * (middle - v0) / (h / 2)
    torch.testing.assert_close(
        integrate(FLOW, X0, plan(uniform(8), Midpoint())), x, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (Euler(), 12),
        (Midpoint(), 24),
        (Heun(), 24),
        (RK4(), 48),
        (FireFlow(), 13),
        (PseudoCorrector(), 13),
        (Adams(2), 12),
        (Adams(3), 12 + 2 * 3),
        (Adams(4), 12 + 3 * 3),
        (Adams(4, start=None), 12),
        (HB(4, 0.8), 12),
        (GHVB(3, 0.8), 12 + 2 * 3),
        (BDIA(), 12),
        (DDIM(), 12),
        (DPMSolver2(), 24),
        (DPMSolver3(), 36),
        (DPMSolverPP2S(), 24),
        (DPMSolverPP2M(), 12),
        (DPMSolverPP3M(), 12),
    ],
    ids=lambda value: str(value),
)
def test_cost(solver, calls):
    field = counted(lambda x, t: -x)
    moves = plan(log_snr(12, T_MIN, T_MAX), solver)
    integrate(field, X0, moves)
    assert field.calls == moves.nfe == calls


def test_few_steps_are_not_spent_on_a_start():
    field = counted(lambda x, t: -x)
    integrate(field, X0, plan(uniform(7), Adams(4)))
    assert field.calls == 7


@pytest.mark.parametrize(
    ("heuns", "pseudos", "refines"), [(1, 5, 3), (0, 4, 2), (2, 0, 3), (2, 3, 0)]
)
def test_flowturbo_cost(heuns, pseudos, refines):
    field = counted(FLOW)
    refined = counted(FLOW)
    refiner = Refine(lambda x, t, v: refined(x, t) - v)
    grid = uniform(heuns + pseudos + refines)
    solvers = [Heun()] * heuns + [PseudoCorrector()] * pseudos + [refiner] * refines
    first, *others = (plan(grid[i : i + 2], s) for i, s in enumerate(solvers))
    moves = sum(others, start=first)
    integrate(field, X0, moves)
    assert moves.nfe == field.calls
    assert field.calls == 2 * heuns + pseudos + (heuns == 0 and pseudos > 0)
    assert refined.calls == 2 * refines


def test_refine_with_the_exact_refiner_is_heun():
    grid = uniform(6)
    refiner = Refine(lambda x, t, v: FLOW(x, t) - v)
    refined = integrate(FLOW, X0, plan(grid, refiner))
    torch.testing.assert_close(refined, integrate(FLOW, X0, plan(grid, Heun())), rtol=0, atol=1e-13)


def test_pseudo_corrector_takes_over_from_heun():
    """FlowTurbo's H block hands over the velocity at its predicted end."""
    first = FLOW(X0, 0.0)
    last = FLOW(X0 + 0.25 * first, 0.25)
    x = X0 + 0.125 * (first + last)
    new = FLOW(x + 0.25 * last, 0.5)
    x = x + 0.125 * (last + new)
    moves = plan([0.0, 0.25], Heun()) + plan([0.25, 0.5], PseudoCorrector())
    torch.testing.assert_close(integrate(FLOW, X0, moves), x, rtol=0, atol=1e-15)


GRIDS = [uniform(32), uniform(50), shifted(32, 3.0)]


def inverted(grid, x=X0, field=FLOW):
    """Invert data by BDIA, whose first move down is Euler's."""
    down = plan(grid[:-3:-1], Euler()) + plan(grid[-2::-1], BDIA())
    return integrate(field, x, down, return_memory=True)


@pytest.mark.parametrize("grid", GRIDS, ids=["32", "50", "uneven"])
def test_bdia_undoes_a_sample_exactly(grid):
    moves = plan(grid, BDIA())
    x1, memory = integrate(FLOW, X0, moves, return_memory=True)
    field = counted(FLOW)
    x0 = integrate(field, x1, reverse(moves), memory=memory)
    torch.testing.assert_close(x0, X0, rtol=0, atol=1e-12)
    assert field.calls == len(grid) - 2  # the state before the last is known


@pytest.mark.parametrize("grid", GRIDS, ids=["32", "50", "uneven"])
def test_bdia_inverts_data_exactly(grid):
    moves = plan(grid, BDIA())
    x0, memory = inverted(grid)
    x1, memory = integrate(FLOW, x0, moves, memory=memory, return_memory=True)
    torch.testing.assert_close(x1, X0, rtol=0, atol=1e-12)
    again = integrate(FLOW, x1, reverse(moves), memory=memory)
    torch.testing.assert_close(again, x0, rtol=0, atol=1e-12)


def test_bdia_in_float32():
    def field(x, t):
        return FLOW(x, t).float()

    x0, memory = inverted(uniform(32), X0.float(), field)
    assert x0.dtype == torch.float32
    x1 = integrate(field, x0, plan(uniform(32), BDIA()), memory=memory)
    torch.testing.assert_close(x1, X0.float(), rtol=0, atol=1e-4)


def test_bdia_refuses_to_invert_without_a_memory():
    moves = plan(uniform(32), BDIA())
    x1, _ = integrate(FLOW, X0, moves, return_memory=True)
    with pytest.raises(ValueError, match=r"BDIA inverts exactly only with the memory of a"):
        integrate(FLOW, x1, reverse(moves))
    x0, _ = inverted(uniform(32))
    assert rms(integrate(FLOW, x0, moves), X0) > 1e-5  # the state before makes the difference


def test_bdia_warns_when_inversion_loses_its_digits():
    moves = plan(uniform(24), BDIA(0.5))
    with pytest.warns(RuntimeWarning, match=r"gamma=0.5 amplifies rounding errors"):
        len(reverse(moves))


@pytest.mark.parametrize("gamma", [0.0, 1.5, -1.0, math.nan])
def test_bdia_gamma_range(gamma):
    with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\], got"):
        BDIA(gamma)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([0.0], [1.0]),
        ([0.0, -1.0], [3 / 2, -1 / 2]),
        ([0.0, -1.0, -2.0], [23 / 12, -16 / 12, 5 / 12]),
        ([0.0, -1.0, -2.0, -3.0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]),
        ([0.0, -0.5], [2.0, -1.0]),
    ],
)
def test_adams_weights(nodes, weights):
    assert adams_weights(nodes) == pytest.approx(weights, rel=1e-13)


@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5])
def test_momentum_of_beta_one_is_none(terms):
    grid = uniform(12)
    for solver, plain in [(GHVB(terms, 1.0), Adams(terms)), (HB(terms, 1.0), Adams(terms, None))]:
        without = integrate(FLOW, X0, plan(grid, plain))
        torch.testing.assert_close(
            integrate(FLOW, X0, plan(grid, solver)), without, rtol=0, atol=1e-12
        )
        assert solver.order == terms


@pytest.mark.parametrize("order", [0, 6])
def test_adams_order_range(order):
    with pytest.raises(ValueError, match=rf"order must be 1 to 5, got {order}"):
        Adams(order)


@pytest.mark.parametrize("beta", [0.0, 1.1])
def test_momentum_range(beta):
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\], got"):
        GHVB(2, beta)
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\], got"):
        HB(2, beta)


def test_memory_is_bounded_and_ends_at_gaps_and_turns():
    context = Context(reads={"velocity": 3})
    for t in (0.0, 0.25, 0.5, 0.75):
        memory = context.remember(t, t + 0.25, velocity=X0, state=X0)
        context = context._replace(memory=memory)
    assert [t for t, _ in context.past(1.0, 1.25).get("velocity")] == [0.75, 0.5, 0.25]
    assert context.past(1.0, 1.25).get("state") == ()  # nobody reads it
    assert context.past(1.0, 0.5).get("velocity") == ()  # a turn
    assert context.past(0.8, 1.0).get("velocity") == ()  # a gap
    after_gap = context.remember(0.8, 1.0, velocity=X0)
    assert [t for t, _ in after_gap.get("velocity")] == [0.8]
    carried = context.remember(1.0, 1.25, carried=X0)
    assert carried.get("velocity") == ()  # not left by that move: forgotten
    assert Context(reads={}).remember(0.0, 1.0, velocity=X0) is None


def test_multistep_restarts_after_a_turn():
    there_and_back = plan(uniform(4, 0.0, 0.5), Adams(2)) + plan([0.5, 0.375], Adams(2))
    half = integrate(FLOW, X0, plan(uniform(4, 0.0, 0.5), Adams(2)))
    expected = half - 0.125 * FLOW(half, 0.5)  # one term: Euler
    torch.testing.assert_close(integrate(FLOW, X0, there_and_back), expected, rtol=0, atol=1e-14)


def test_multistep_goes_on_from_the_records_of_another_solver():
    moves = plan([0.0, 0.1], RK4()) + plan([0.1, 0.2], Adams(2))
    x = integrate(FLOW, X0, moves[:1])
    expected = x + 0.1 * (1.5 * FLOW(x, 0.1) - 0.5 * FLOW(X0, 0.0))
    torch.testing.assert_close(integrate(FLOW, X0, moves), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "solver", [DPMSolver2(), DPMSolver3(), DPMSolverPP2S(), DPMSolverPP3M()], ids=str
)
def test_exponential_at_the_ends(solver):
    """From t = 0 the step is Euler's; into t = 1 it is the data prediction, exactly."""
    first = integrate(FLOW, X0, plan([0.0, 0.3], solver))
    torch.testing.assert_close(first, X0 + 0.3 * FLOW(X0, 0.0), rtol=0, atol=1e-15)
    last = integrate(FLOW, X0, plan([0.7, 1.0], solver))
    torch.testing.assert_close(last, X0 + 0.3 * FLOW(X0, 0.7), rtol=0, atol=1e-15)
    down = integrate(FLOW, X0, plan([1.0, 0.0], solver))
    assert torch.isfinite(down).all()


def test_first_order_exponential_is_euler_on_the_linear_path():
    grid = log_snr(6, T_MIN, T_MAX)
    euler = integrate(FLOW, X0, plan(grid, Euler()))
    end = integrate(FLOW, X0, plan(grid, DDIM()))
    torch.testing.assert_close(end, euler, rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", [DDIM(), DPMSolverPP2S(), DPMSolverPP2M(), DPMSolverPP3M()])
def test_data_prediction_is_exact_for_a_point_mass(solver):
    """D is constant, so nothing is left to expand."""
    target = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    end = integrate(
        lambda x, t: (target - x) / (1 - t),
        X0,
        plan(log_snr(3, T_MIN, T_MAX), solver),
    )
    noise = (X0 - T_MIN * target) / (1 - T_MIN)
    expected = T_MAX * target + (1 - T_MAX) * noise
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [DDIM(), DPMSolver2(), DPMSolver3()])
def test_noise_prediction_is_exact_for_constant_noise(solver):
    noise = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    end = integrate(lambda x, t: (x - noise) / t, X0, plan(log_snr(3, T_MIN, T_MAX), solver))
    data = (X0 - (1 - T_MIN) * noise) / T_MIN
    torch.testing.assert_close(end, T_MAX * data + (1 - T_MAX) * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("evaluations", range(1, 13))
def test_fast_plan_spends_its_budget(evaluations):
    field = counted(FLOW)
    moves = fast_plan(evaluations, T_MIN, T_MAX)
    integrate(field, X0, moves)
    assert field.calls == evaluations
    assert (moves[0].start, moves[-1].stop) == (T_MIN, T_MAX)
    assert [m.solver.order for m in moves][:-2] == [3] * (len(moves) - 2)


def test_fast_plan_beats_euler_at_equal_cost(exact_inside):
    begin, end = exact_inside
    fast = rms(integrate(FLOW, begin, fast_plan(12, T_MIN, T_MAX)), end)
    assert fast < 0.3 * error(Euler(), log_snr(12, T_MIN, T_MAX), begin, end)


def test_fast_plan_needs_a_budget():
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        fast_plan(0, T_MIN, T_MAX)


def test_lower_order_final_applies_to_short_plans():
    solver = DPMSolverPP3M()
    assert [m.solver.order for m in plan(uniform(5), solver)] == [3, 3, 3, 2, 1]
    assert [m.solver.order for m in plan(uniform(2), solver)] == [2, 1]
    assert [m.solver.order for m in plan(uniform(10), solver)] == [3] * 10
    kept = DPMSolverPP3M(lower_order_final=False)
    assert [m.solver.order for m in plan(uniform(5), kept)] == [3] * 5


@pytest.mark.parametrize(
    ("tableau", "message"),
    [
        ({"a": ((1.0,), (1.0,)), "b": (0.5, 0.5, 0.0), "c": (1.0, 1.0)}, "does not fit together"),
        ({"a": ((1.0,),), "b": (0.5, 0.5), "c": ()}, "does not fit together"),
        ({"a": ((1.0,),), "b": (0.5, 0.5), "c": (0.5,)}, "stage times must be the row sums"),
        ({"a": ((1.0,),), "b": (0.5, 0.4), "c": (1.0,)}, "weights must sum to 1"),
    ],
)
def test_tableaus_are_checked(tableau, message):
    with pytest.raises(ValueError, match=message):
        ButcherTableau(**tableau)


ALL_FLAT = [s for s, _ in ORDERS] + [DDIM(), DPMSolver3(), DPMSolverPP2S(), DPMSolverPP3M()]


@pytest.mark.parametrize("solver", ALL_FLAT, ids=str)
def test_solvers_keep_nothing_between_runs(solver):
    before = dict(vars(solver))
    moves = plan(log_snr(9, T_MIN, T_MAX), solver)
    assert torch.equal(integrate(FLOW, X0, moves), integrate(FLOW, X0, moves))
    assert vars(solver) == before


@pytest.mark.parametrize("solver", ALL_FLAT, ids=str)
def test_states_of_several_parts(solver):
    parts = {"left": X0[:, :1], "right": X0[:, 1:]}

    def field(x, t):
        v = FLOW(torch.cat((x["left"], x["right"]), dim=-1), t)
        return {"left": v[:, :1], "right": v[:, 1:]}

    moves = plan(log_snr(9, T_MIN, T_MAX), solver)
    whole, split = integrate(FLOW, X0, moves), integrate(field, parts, moves)
    joined = torch.cat((split["left"], split["right"]), dim=-1)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    "solver", [*ALL_FLAT, DDIM(VariancePreserving()), Adams(4, start=Heun())], ids=str
)
def test_solvers_are_values(solver):
    """Equal, hashable, and printed in the form that makes them again."""
    again = eval(repr(solver), vars(rectiflow.solvers) | vars(rectiflow.paths))
    assert again == solver
    assert hash(again) == hash(solver)
    assert solver != Ralston()


def test_equal_solvers_are_one():
    assert Adams(2) == Adams(2) != Adams(2, start=None)
    assert str(Adams(2)) != str(Adams(2, start=None))
    assert len({Euler(), Euler(), Heun(), FireFlow(), FireFlow()}) == 3
    assert str(Euler()) == "Euler()"
    assert GHVB(2, 0.5) != HB(2, 0.5)


@pytest.mark.parametrize("name", rectiflow.solvers.__all__)
def test_solvers_are_named_in_configurations(name):
    """A Hydra target takes the fields as keys."""
    from hydra.utils import instantiate

    solver = next((s for s in ALL_FLAT if type(s).__name__ == name), None)
    if solver is None or isinstance(solver, RungeKutta):
        return
    keys = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
    plain = {k: v for k, v in keys.items() if isinstance(v, int | float | bool)}
    made = instantiate({"_target_": f"rectiflow.solvers.{name}", **plain})
    assert made == dataclasses.replace(made, **plain)
    assert type(made) is type(solver)
