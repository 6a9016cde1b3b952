from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import counted
from rectiflow.grids import log_snr, shifted, uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.paths import Linear, VariancePreserving
from rectiflow.solvers import (
    RK4,
    Adams,
    Bidirectional,
    ButcherTableau,
    DPMSolver,
    DPMSolverPP,
    Euler,
    Exponential,
    GeneralisedHeavyBall,
    HeavyBall,
    Heun,
    History,
    Midpoint,
    MultistepDPMSolverPP,
    Nesterov,
    Pair,
    PseudoCorrector,
    Refine,
    ReusedMidpoint,
    RungeKutta,
    fast_plan,
)
from rectiflow.solvers.adams import adams_weights
from rectiflow.spaces import Euclidean

T_MIN, T_MAX = 0.02, 0.98
GHVB = GeneralisedHeavyBall
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
    got = integrate(field, begin, plan(grid, solver))
    return rms(got.high if isinstance(got, Pair) else got, end)


ORDERS = [
    (Euler(), 1.0),
    (Midpoint(), 2.0),
    (Heun(), 1.99),
    (RungeKutta(KUTTA3, order=3), 3.0),
    (RK4(), 4.0),
    (ReusedMidpoint(), 1.99),
    (PseudoCorrector(), 1.99),
    (Adams(2), 2.0),
    (Adams(3), 3.0),
    (Adams(4), 3.99),
    (Adams(4, start=None), 2.0),
    (Adams(1, GHVB(0.5)), 0.99),
    (Adams(2, GHVB(0.8)), 2.02),
    (Adams(3, GHVB(0.5), start=None), 1.98),
    (Adams(4, GHVB(0.5), start=None), 2.0),
    (Adams(3, GHVB(0.5)), 3.0),
    (Adams(4, GHVB(0.8)), 4.0),
    (Adams(2, HeavyBall(0.8)), 1.0),
    (Adams(4, Nesterov(0.8)), 1.0),
    (Bidirectional(1.0), 2.0),
    (Bidirectional(0.5), 1.0),
    (MultistepDPMSolverPP(2), 1.83),
]


@pytest.mark.parametrize(("solver", "order"), ORDERS, ids=lambda value: str(value))
def test_order_on_a_smooth_field(solver, order, exact):
    steps = 128 if solver.nfe == 1 else 64
    coarse, fine = (error(solver, uniform(n), X0, exact) for n in (steps, 2 * steps))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("solver", "order"), ORDERS[:-1], ids=lambda value: str(value))
def test_declared_order(solver, order):
    limited_by_start = isinstance(solver, Adams) and solver.start is None and solver.order > 2
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
        (DPMSolver(1), 0.9, 1.1),
        (DPMSolver(2), 1.9, 2.1),
        (DPMSolver(3), 2.8, 3.2),
        (DPMSolverPP(1), 0.9, 1.1),
        (DPMSolverPP(2), 1.9, 2.1),
        (MultistepDPMSolverPP(2), 1.9, 2.3),
        (Exponential.published_3m(), 1.9, 2.2),
        (MultistepDPMSolverPP(3), 2.7, 3.0),
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
    for solver, order in [(DPMSolver(3, path), 3), (MultistepDPMSolverPP(2, path), 2)]:
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
    moves = plan(steps, Adams(terms, GHVB(beta), start=None))
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
        (ReusedMidpoint(), 13),
        (PseudoCorrector(), 13),
        (Adams(2), 12),
        (Adams(3), 12 + 2 * 3),
        (Adams(4), 12 + 3 * 3),
        (Adams(4, start=None), 12),
        (Adams(4, HeavyBall(0.8)), 12),
        (Adams(3, GHVB(0.8)), 12 + 2 * 3),
        (Bidirectional(), 12),
        (DPMSolver(1), 12),
        (DPMSolver(2), 24),
        (DPMSolver(3), 36),
        (DPMSolverPP(2), 24),
        (MultistepDPMSolverPP(2), 12),
        (MultistepDPMSolverPP(3), 12),
    ],
    ids=lambda value: str(value),
)
def test_cost(solver, calls):
    field = counted(lambda x, t: -x)
    integrate(field, X0, plan(log_snr(12, T_MIN, T_MAX), solver))
    assert field.calls == calls


def test_few_steps_are_not_spent_on_a_start():
    field = counted(lambda x, t: -x)
    integrate(field, X0, plan(uniform(7), Adams(4)))
    assert field.calls == 7


@pytest.mark.parametrize("solver", [s for s, _ in ORDERS[:-3]], ids=str)
def test_a_known_first_velocity_is_not_evaluated_again(solver):
    def first_step(v):
        field = counted(FLOW)
        x = solver.step(field, X0, 0.25, 0.5, History(4), Euclidean(), v)
        return x, field.calls

    plain, calls = first_step(None)
    given, fewer = first_step(FLOW(X0, 0.25))
    assert torch.equal(plain, given)
    assert fewer == calls - 1


@pytest.mark.parametrize(
    ("heuns", "pseudos", "refines"), [(1, 5, 3), (0, 4, 2), (2, 0, 3), (2, 3, 0)]
)
def test_flowturbo_cost(heuns, pseudos, refines):
    field = counted(FLOW)
    refined = counted(FLOW)
    refiner = Refine(lambda x, t, v: refined(x, t) - v)
    grid = uniform(heuns + pseudos + refines)
    solvers = [Heun()] * heuns + [PseudoCorrector()] * pseudos + [refiner] * refines
    moves = [plan(grid[i : i + 2], s)[0] for i, s in enumerate(solvers)]
    integrate(field, X0, moves)
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


@pytest.mark.parametrize(
    "grid", [uniform(32), uniform(50), shifted(32, 3.0)], ids=["32", "50", "uneven"]
)
def test_bdia_inverts_exactly(grid):
    moves = plan(grid, Bidirectional())
    there = integrate(FLOW, X0, reverse(moves))
    back = integrate(FLOW, there, moves)
    torch.testing.assert_close(back.high, X0, rtol=0, atol=1e-12)
    again = integrate(FLOW, back, reverse(moves))
    torch.testing.assert_close(again.low, there.low, rtol=0, atol=1e-12)


def test_bdia_in_float32():
    def field(x, t):
        return FLOW(x, t).float()

    moves = plan(uniform(32), Bidirectional())
    there = integrate(field, X0.float(), reverse(moves))
    assert there.low.dtype == torch.float32
    torch.testing.assert_close(integrate(field, there, moves).high, X0.float(), rtol=0, atol=1e-4)


def test_bdia_needs_both_states():
    moves = plan(uniform(32), Bidirectional())
    there = integrate(FLOW, X0, reverse(moves))
    assert rms(integrate(FLOW, there.low, moves).high, X0) > 1e-5


def test_bdia_rejects_a_pair_from_elsewhere():
    pair = integrate(FLOW, X0, plan([0.0, 0.25, 0.5], Bidirectional()))
    with pytest.raises(ValueError, match=r"a pair at \(0.25, 0.5\) and a move from 0.75 to 1.0"):
        integrate(FLOW, pair, plan([0.75, 1.0], Bidirectional()))


def test_bdia_warns_when_inversion_loses_its_digits():
    with pytest.warns(RuntimeWarning, match=r"gamma=0.5 has amplified rounding errors"):
        integrate(FLOW, X0, reverse(plan(uniform(24), Bidirectional(0.5))))


@pytest.mark.parametrize("gamma", [0.0, 1.5, -1.0, math.nan])
def test_bdia_gamma_range(gamma):
    with pytest.raises(ValueError, match=r"gamma must be in \(0, 1\], got"):
        Bidirectional(gamma)


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
@pytest.mark.parametrize("momentum", [GHVB(1.0), HeavyBall(1.0), Nesterov(1.0)], ids=str)
def test_momentum_of_beta_one_is_none(terms, momentum):
    grid = uniform(12)
    plain = integrate(FLOW, X0, plan(grid, Adams(terms)))
    with_momentum = integrate(FLOW, X0, plan(grid, Adams(terms, momentum)))
    torch.testing.assert_close(with_momentum, plain, rtol=0, atol=1e-12)
    assert Adams(terms, momentum).order == terms


def test_nesterov_by_hand():
    beta, x, u = 0.6, X0, None
    past = []
    for start, stop, _ in plan(uniform(5), Euler()):
        past.append(FLOW(x, start))
        a = past[0] if len(past) == 1 else 1.5 * past[-1] - 0.5 * past[-2]
        u = a if u is None else (1 - beta) * u + beta * a
        x = x + (stop - start) * ((1 - beta) * u + beta * a)
    got = integrate(FLOW, X0, plan(uniform(5), Adams(2, Nesterov(beta))))
    torch.testing.assert_close(got, x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", [0, 6])
def test_adams_order_range(order):
    with pytest.raises(ValueError, match=rf"order must be 1 to 5, got {order}"):
        Adams(order)


@pytest.mark.parametrize("beta", [0.0, 1.1])
def test_momentum_range(beta):
    with pytest.raises(ValueError, match=r"beta must be in \(0, 1\], got"):
        GHVB(beta)


def test_history_is_bounded_and_ends_at_gaps_and_turns():
    history = History(3)
    for t in (0.0, 0.25, 0.5):
        history.push(t, X0, X0, t + 0.25)
    assert [r.t for r in history.before(0.75, 1.0)] == [0.5, 0.25, 0.0]
    assert history.before(0.75, 0.5) == []  # a turn
    assert history.before(0.8, 1.0) == []  # a gap
    history.push(0.75, X0, X0, 0.9)
    assert len(history) == 3
    assert [r.t for r in history] == [0.25, 0.5, 0.75]
    history.push(0.8, X0, X0, 1.0)
    assert [r.t for r in history.before(1.0, 1.1)] == [0.8]


def test_history_of_size_zero_keeps_nothing_and_negative_is_refused():
    history = History(0)
    history.push(0.0, X0, X0, 1.0)
    assert len(history) == 0
    with pytest.raises(ValueError, match="history size must not be negative, got -1"):
        History(-1)


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
    "solver", [DPMSolver(2), DPMSolver(3), DPMSolverPP(2), MultistepDPMSolverPP(3)], ids=str
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
    for solver in (DPMSolver(1), DPMSolverPP(1), MultistepDPMSolverPP(1)):
        end = integrate(FLOW, X0, plan(grid, solver))
        torch.testing.assert_close(end, euler, rtol=0, atol=1e-13)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_data_prediction_is_exact_for_a_point_mass(order):
    """D is constant, so nothing is left to expand."""
    target = torch.tensor([[1.5, -0.5]], dtype=torch.float64)
    end = integrate(
        lambda x, t: (target - x) / (1 - t),
        X0,
        plan(log_snr(3, T_MIN, T_MAX), MultistepDPMSolverPP(order)),
    )
    noise = (X0 - T_MIN * target) / (1 - T_MIN)
    expected = T_MAX * target + (1 - T_MAX) * noise
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_noise_prediction_is_exact_for_constant_noise(order):
    noise = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    end = integrate(
        lambda x, t: (x - noise) / t, X0, plan(log_snr(3, T_MIN, T_MAX), DPMSolver(order))
    )
    data = (X0 - (1 - T_MIN) * noise) / T_MIN
    torch.testing.assert_close(end, T_MAX * data + (1 - T_MAX) * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("evaluations", range(1, 13))
def test_fast_plan_spends_its_budget(evaluations):
    field = counted(FLOW)
    moves = fast_plan(evaluations, T_MIN, T_MAX)
    integrate(field, X0, moves)
    assert field.calls == evaluations
    assert (moves[0].start, moves[-1].stop) == (T_MIN, T_MAX)
    assert [m.solver.order for m in moves[:-2]] == [3] * (len(moves) - 2)


def test_fast_plan_beats_euler_at_equal_cost(exact_inside):
    begin, end = exact_inside
    fast = rms(integrate(FLOW, begin, fast_plan(12, T_MIN, T_MAX)), end)
    assert fast < 0.3 * error(Euler(), log_snr(12, T_MIN, T_MAX), begin, end)


def test_fast_plan_needs_a_budget():
    with pytest.raises(ValueError, match="evaluations must be at least 1, got 0"):
        fast_plan(0, T_MIN, T_MAX)


def test_lower_order_final_applies_to_short_plans():
    solver = MultistepDPMSolverPP(3)
    assert [m.solver.order for m in plan(uniform(5), solver)] == [3, 3, 3, 2, 1]
    assert [m.solver.order for m in plan(uniform(2), solver)] == [2, 1]
    assert [m.solver.order for m in plan(uniform(10), solver)] == [3] * 10
    kept = MultistepDPMSolverPP(3, lower_order_final=False)
    assert [m.solver.order for m in plan(uniform(5), kept)] == [3] * 5


def test_exponential_orders_are_checked():
    with pytest.raises(ValueError, match=r"DPMSolverPP has no order 3, got order=3; .* 1, 2"):
        DPMSolverPP(3)


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


ALL_FLAT = [s for s, _ in ORDERS] + [DPMSolver(3), DPMSolverPP(2), MultistepDPMSolverPP(3)]


@pytest.mark.parametrize("solver", ALL_FLAT, ids=str)
def test_solvers_keep_nothing_between_runs(solver):
    before = dict(vars(solver))
    moves = plan(log_snr(9, T_MIN, T_MAX), solver)
    once, twice = (integrate(FLOW, X0, moves) for _ in range(2))
    if isinstance(once, Pair):
        once, twice = once.high, twice.high
    assert torch.equal(once, twice)
    assert vars(solver) == before


@pytest.mark.parametrize("solver", ALL_FLAT, ids=str)
def test_states_of_several_parts(solver):
    parts = {"left": X0[:, :1], "right": X0[:, 1:]}

    def field(x, t):
        v = FLOW(torch.cat((x["left"], x["right"]), dim=-1), t)
        return {"left": v[:, :1], "right": v[:, 1:]}

    moves = plan(log_snr(9, T_MIN, T_MAX), solver)
    whole, split = integrate(FLOW, X0, moves), integrate(field, parts, moves)
    if isinstance(whole, Pair):
        whole, split = whole.high, split.high
    joined = torch.cat((split["left"], split["right"]), dim=-1)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-14)


def test_solvers_print_how_they_are_made():
    assert [str(s) for s in (Euler(), Midpoint(), Heun(), RK4())] == [
        "Euler()",
        "Midpoint()",
        "Heun()",
        "RK4()",
    ]
    assert str(Adams(3, GHVB(0.5))) == "Adams(3, GeneralisedHeavyBall(0.5))"
    assert str(DPMSolver(2, Linear())) == "DPMSolver(2, Linear())"
    assert str(RungeKutta(KUTTA3, 3)).startswith("RungeKutta(ButcherTableau(a=((0.5,)")
    assert Euler() == Euler() != Midpoint()
    assert len({Euler(), Euler(), Heun()}) == 2
    assert GHVB(0.5) == GHVB(0.5) != HeavyBall(0.5)
