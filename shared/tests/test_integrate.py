from __future__ import annotations

import importlib
import math

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.compare import compare_solvers
from rectiflow.fields import bind, counted
from rectiflow.grids import log_snr, uniform
from rectiflow.guidance import cfg, guided
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    Adams,
    Ancestral,
    Dopri5,
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
)
from torch import Tensor, nn

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FLOW = GaussianMixtureFlow(
    torch.tensor([0.5, 0.5], dtype=torch.float64),
    torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64),
    torch.stack((0.3 * torch.eye(2, dtype=torch.float64), 0.5 * torch.eye(2, dtype=torch.float64))),
)


def decay(x: Tensor, t: float | Tensor) -> Tensor:
    return -x * (1 + t)


class Network(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat((x, t[:, None]), dim=-1))


@pytest.fixture
def network() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network()


# The loop


def test_euler_by_hand_and_the_input_is_left_alone():
    before = X.clone()
    x = X
    for i in range(4):
        x = x + 0.25 * decay(x, i / 4)
    torch.testing.assert_close(integrate(decay, X, plan(uniform(4), Euler())), x)
    assert torch.equal(X, before)


def test_times_are_float64_numbers_on_the_host():
    seen = []

    def field(x, t):
        seen.append(t)
        return x

    integrate(field, X.half(), plan(uniform(3), Midpoint()))
    assert [type(t) for t in seen] == [float] * 6
    assert seen[2] == 1 / 3


@pytest.mark.parametrize("solver", [Heun(), RK4()], ids=str)
def test_the_last_stage_is_evaluated_at_exactly_the_end(solver):
    seen = []

    def field(x, t):
        seen.append(t)
        return x

    integrate(field, X, plan([0.1, 0.4, 0.7, 1.0], solver))
    assert max(seen) == 1.0


def test_a_hook_may_change_the_state():
    seen = []

    def double(moved):
        seen.append(moved.stop)
        return 2 * moved.state

    end = integrate(lambda x, t: 0 * x, X, plan(uniform(2), Euler()), hook=double)
    torch.testing.assert_close(end, 4 * X)
    assert seen == [0.5, 1.0]


def test_a_hook_returns_a_state_or_nothing():
    with pytest.raises(TypeError, match="a hook returns None or a state to go on from, got True"):
        integrate(decay, X, plan(uniform(4), Euler()), hook=lambda moved: True)


@pytest.mark.parametrize("solver", [Euler(), Adams(2), DPMSolver3()], ids=str)
def test_a_velocity_that_would_broadcast_is_refused(solver):
    moves = plan(uniform(12, 0.1, 0.9), solver)
    with pytest.raises(ValueError, match=r"velocity must have shape \(.*\), got \(1, "):
        integrate(lambda x, t: decay(x, t)[:1], X, moves)
    with pytest.raises(ValueError, match=r"velocity must have shape .* got \{'x'"):
        integrate(lambda x, t: {"x": x}, X, moves)


def test_a_hook_sees_every_move():
    seen = []
    end = integrate(decay, X, plan(uniform(4), Heun()), hook=seen.append)
    assert [(s.index, s.count, s.start, s.stop) for s in seen] == [
        (0, 4, 0.0, 0.25),
        (1, 4, 0.25, 0.5),
        (2, 4, 0.5, 0.75),
        (3, 4, 0.75, 1.0),
    ]
    assert torch.equal(seen[-1].state, end)
    assert torch.equal(seen[0].velocity, decay(X, 0.0))
    assert torch.equal(seen[2].velocity, decay(seen[1].state, 0.5))


def test_a_hook_gets_no_velocity_that_was_not_evaluated():
    steps = []
    integrate(decay, X, plan(uniform(3), FireFlow()), hook=steps.append)
    assert [s.velocity is None for s in steps] == [False, True, True]


MULTISTEP = [
    Adams(3),
    Adams(4),
    FireFlow(),
    PseudoCorrector(),
    HB(2, 0.7),
    GHVB(3, 0.7),
    DPMSolverPP2M(),
    DPMSolverPP3M(),
    BDIA(),
    BDIA(0.8),
]


@pytest.mark.parametrize("solver", MULTISTEP, ids=str)
def test_a_memory_carries_a_run_over(solver):
    whole = plan(uniform(12, 0.1, 0.9), solver)
    half, memory = integrate(decay, X, whole[:5], return_memory=True)
    resumed = integrate(decay, half, whole[5:], memory=memory)
    assert torch.equal(resumed, integrate(decay, X, whole))


def jump(moved):
    return moved.state + 3.0 if moved.stop == 0.5 else None


@pytest.mark.parametrize("solver", [*MULTISTEP, Heun(), DPMSolver3()], ids=str)
def test_after_a_jump_a_run_goes_on_as_a_restart(solver):
    """The start that a plan lays out included."""
    grid = uniform(32)
    before = plan(grid, solver)[:16]  # the first half of the whole, not a short plan of its own
    half = integrate(decay, X, before) + 3.0
    restarted = integrate(decay, half, plan(grid[16:], solver))
    assert torch.equal(integrate(decay, X, plan(grid, solver), hook=jump), restarted)


@pytest.mark.parametrize(("solver", "error"), [(Adams(4), 1.28e-3), (PseudoCorrector(), 3.83e-3)])
def test_errors_after_a_jump(solver, error):
    """Those of a run that starts there."""
    half = integrate(FLOW, X, plan(uniform(200, 0.0, 0.5), RK4())) + 3.0
    exact = integrate(FLOW, half, plan(uniform(200, 0.5, 1.0), RK4()))
    end = integrate(FLOW, X, plan(uniform(32), solver), hook=jump)
    assert (end - exact).abs().max().item() == pytest.approx(error, rel=0.01)


def test_a_run_goes_on_from_the_memory_of_another_solver():
    x, memory = integrate(decay, X, plan([0.0, 0.1], RK4()), return_memory=True)
    expected = x + 0.1 * (1.5 * decay(x, 0.1) - 0.5 * decay(X, 0.0))
    end = integrate(decay, x, plan([0.1, 0.2], Adams(2)), memory=memory)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-13)


def test_what_nobody_reads_is_not_kept():
    """A state of the past would hold its memory through the next evaluation."""
    import weakref

    alive = []

    def field(x, t):
        states.append(weakref.ref(x))
        alive.append(sum(ref() is not None for ref in states))
        return -x

    states: list = []
    integrate(field, X.clone(), plan(uniform(6), Euler()))
    assert max(alive) <= 2  # the first is the caller's


def test_observed_and_plain_runs_agree_bitwise():
    moves = plan(uniform(10), Adams(3))
    watched = integrate(decay, X, moves, hook=lambda moved: None)
    assert torch.equal(watched, integrate(decay, X, moves))


def test_runs_are_deterministic(network):
    moves = plan(uniform(10), Adams(3))
    runs = [integrate(bind(network), X.float(), moves) for _ in range(2)]
    assert torch.equal(*runs)


# Inversion


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Midpoint(), 2), (RK4(), 4)], ids=str)
def test_inversion_is_the_reversed_plan(solver, order):
    def round_trip(steps: int) -> float:
        moves = plan(uniform(steps), solver)
        there = integrate(FLOW, X, reverse(moves))
        return (integrate(FLOW, there, moves) - X).square().mean().sqrt().item()

    assert round_trip(64) / round_trip(128) >= 0.7 * 2**order


def test_inversion_by_adams_starts_at_its_start():
    """Even where the moves are turned round one by one: a run that knows too little starts."""
    exact = integrate(FLOW, X, plan(uniform(400)[::-1], RK4()))
    moves = plan(uniform(64), Adams(4))
    back = integrate(FLOW, X, reverse(moves))
    assert torch.equal(back, integrate(FLOW, X, plan(uniform(64)[::-1], Adams(4))))
    first, *others = (plan((m.stop, m.start), m.solver) for m in reversed(moves))
    assert torch.equal(back, integrate(FLOW, X, sum(others, start=first)))
    assert (back - exact).abs().max().item() == pytest.approx(1.10e-6, rel=0.01)


def test_multistep_inversion_plans_the_reversed_grid():
    exact = integrate(FLOW, X, plan(uniform(200)[::-1], RK4()))
    errors = [
        (integrate(FLOW, X, plan(uniform(n)[::-1], Adams(3))) - exact).abs().max().item()
        for n in (64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)


# Precision and gradients


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [Euler(), RK4(), Adams(3), DPMSolverPP2M()], ids=str)
def test_the_state_keeps_its_dtype(dtype, solver):
    assert integrate(decay, X.to(dtype), plan(uniform(4), solver)).dtype == dtype


def test_a_field_of_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"got torch.float32 before and torch.float64 after"):
        integrate(lambda x, t: x.double(), X.float(), plan(uniform(4), Euler()))


def test_a_half_precision_field_drifts_little_on_a_float32_state():
    def half(x, t):
        return FLOW(x.half().double(), t).half()

    moves = plan(uniform(50), Midpoint())
    drift = integrate(half, X.float(), moves) - integrate(FLOW, X, moves).float()
    assert drift.dtype == torch.float32
    assert drift.square().mean().sqrt() < 1e-2


def test_nothing_is_recorded_by_default(network):
    assert not integrate(bind(network), X.float(), plan(uniform(2), Euler())).requires_grad
    end = integrate(bind(network), X.float(), plan(uniform(2), Euler()), differentiable=True)
    assert end.requires_grad
    with torch.no_grad():
        quiet = integrate(bind(network), X.float(), plan(uniform(2), Euler()), differentiable=True)
    assert not quiet.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), RK4(), Adams(2), DPMSolver2()], ids=str)
def test_gradients(solver):
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    begin = X[:3].clone().requires_grad_()

    def end(x: Tensor, rate: Tensor) -> Tensor:
        moves = plan(uniform(3, 0.1, 0.9), solver)
        return integrate(lambda x, t: torch.sin(rate * x) * t, x, moves, differentiable=True)

    assert torch.autograd.gradcheck(end, (begin, rate))


def test_a_guide_may_use_gradients_by_itself():
    def downhill(x, t, v):
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(at.square().sum(), at)
        return v - slope

    end = integrate(guided(lambda x, t: 0 * x, downhill), X, plan(uniform(1), Euler()))
    torch.testing.assert_close(end, -X)


# Compiled regions. The quick tests trace with torch's own front end but run the graph eagerly.


@pytest.fixture
def graphs(monkeypatch):
    """Compile without generating code, and collect the graphs made."""
    made = []

    def keep(graph, inputs):
        made.append(graph)
        return graph.forward

    torch._dynamo.reset()
    module = importlib.import_module("rectiflow.compiled")
    region = torch.compile(module._region, fullgraph=True, dynamic=False, backend=keep)
    monkeypatch.setattr(module, "_compile_region", lambda on_gpu: region)
    yield made
    torch._dynamo.reset()


@pytest.mark.parametrize("solver", [Euler(), Heun(), RK4()], ids=str)
def test_regions_share_one_compilation(graphs, network, solver):
    moves = plan(uniform(6), solver)
    field, x = bind(network), X.float()
    end = integrate(field, x, moves, compile=3)
    torch.testing.assert_close(end, integrate(field, x, moves), rtol=0, atol=1e-6)
    assert len(graphs) == 1
    integrate(field, x, moves, compile=3)
    integrate(field, x + 1, plan(log_snr(6, 0.1, 0.9), solver), compile=3)
    integrate(bind(network), x, moves, compile=3)
    assert len(graphs) == 1


def test_a_partial_region_is_a_graph_of_its_own(graphs, network):
    moves = plan(uniform(7), Midpoint())
    field, x = bind(network), X.float()
    for _ in range(2):
        end = integrate(field, x, moves, compile=3)
        torch.testing.assert_close(end, integrate(field, x, moves), rtol=0, atol=1e-6)
    assert len(graphs) == 2
    integrate(field, x, moves, compile=100)
    assert len(graphs) == 3


def test_compiled_plans_may_mix_solvers_and_turn(graphs, network):
    moves = plan([0.0, 0.5], Heun()) + plan([0.5, 0.25], Euler()) + plan([0.25, 1.0], RK4())
    field = bind(network)
    end = integrate(field, X.float(), moves, compile=3)
    torch.testing.assert_close(end, integrate(field, X.float(), moves), rtol=0, atol=1e-6)
    assert len(graphs) == 1


def test_compiled_guidance_with_an_interval(graphs, network):
    other = bind(lambda x, t: torch.sin(x) * t[:, None])
    field = guided(bind(network), cfg(other, 2.0, interval=(0.2, 0.6)))
    moves = plan(uniform(6), Euler())
    end = integrate(field, X.float(), moves, compile=2)
    torch.testing.assert_close(end, integrate(field, X.float(), moves), rtol=0, atol=1e-6)
    assert len(graphs) == 1


def test_compiled_gradients(graphs, network):
    field, moves = bind(network), plan(uniform(4), Midpoint())

    def gradient(**options) -> Tensor:
        network.zero_grad()
        integrate(field, X.float(), moves, differentiable=True, **options).sum().backward()
        return network.net[0].weight.grad.clone()

    torch.testing.assert_close(gradient(compile=2), gradient(), rtol=0, atol=1e-5)


def test_a_hook_sees_every_region(graphs, network):
    steps = []
    end = integrate(
        bind(network), X.float(), plan(uniform(5), Euler()), compile=2, hook=steps.append
    )
    assert [(s.index, s.start, s.stop) for s in steps] == [
        (1, 0.0, 0.4),
        (3, 0.4, 0.8),
        (4, 0.8, 1.0),
    ]
    assert torch.equal(steps[-1].state, end)


def test_a_hook_may_change_the_state_between_regions(graphs, network):
    def double(moved):
        return 2 * moved.state

    moves, field = plan(uniform(4), Adams(2)), bind(network)
    end = integrate(field, X.float(), moves, compile=2, hook=double)
    x = 2 * integrate(field, X.float(), plan([0.0, 0.25], Adams(2)))  # no memory: as it is
    for i in (1, 2, 3):
        x = 2 * integrate(field, x, plan(uniform(4)[i : i + 2], Adams(2)))
    torch.testing.assert_close(end, x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "size", "message"),
    [
        (Ancestral(), 2, r"Ancestral\(.*\) cannot be compiled, got compile=2"),
        (Dopri5(), 2, r"Dopri5\(.*\) cannot be compiled, got compile=2"),
        (Euler(), -1, r"compile must not be negative, got -1"),
    ],
)
def test_what_cannot_be_compiled_is_named(solver, size, message):
    with pytest.raises(ValueError, match=message):
        integrate(decay, X, plan(uniform(4), solver), compile=size, noise=KeyedNoise(0, range(8)))


TRACEABLE = [
    Euler(),
    Heun(),
    RK4(),
    FireFlow(),
    PseudoCorrector(),
    Adams(3, start=None),
    Adams(4),
    GHVB(2, 0.8),
    GHVB(3, 0.8),
    HB(3, 0.8),
    BDIA(),
    BDIA(0.7),
    DDIM(),
    DPMSolver2(),
    DPMSolver3(),
    DPMSolverPP2S(),
    DPMSolverPP2M(),
    DPMSolverPP3M(),
]


EACH_KIND = [Heun(), Adams(4), BDIA(), DPMSolverPP2M()]
GRIDS = {"ends": uniform(9), "inside": log_snr(9, 0.02, 0.98)}
REGIONS = [
    pytest.param(
        solver,
        grid,
        id=f"{name}-{solver}",
        # A graph of some solvers takes seconds to trace: one of each kind, where a grid has ends.
        marks=() if solver in EACH_KIND and name == "ends" else pytest.mark.slow,
    )
    for solver in TRACEABLE
    for name, grid in GRIDS.items()
]


@pytest.mark.parametrize(("solver", "grid"), REGIONS)
def test_regions_of_every_deterministic_solver(graphs, network, solver, grid):
    moves, field, x = plan(grid, solver), bind(network.double()), X
    end = integrate(field, x, moves, compile=4)
    torch.testing.assert_close(end, integrate(field, x, moves), rtol=0, atol=1e-10)
    assert len(graphs) <= 3


def test_a_compiled_run_hands_its_memory_on(graphs, network):
    moves, field = plan(uniform(9), BDIA()), bind(network.double())
    x1, memory = integrate(field, X, moves, compile=4, return_memory=True)
    x0 = integrate(field, x1, reverse(moves), compile=4, memory=memory)
    torch.testing.assert_close(x0, X, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", TRACEABLE, ids=str)
@pytest.mark.filterwarnings("ignore:.*lru_cache.*:UserWarning")
def test_every_solver_traces_without_graph_breaks(solver):
    """A whole run as one graph, its times constants: what a user's own torch.compile sees."""
    torch._dynamo.reset()
    moves = plan(log_snr(4, 0.02, 0.98), solver)
    assert len(moves) == 4

    @torch.compile(fullgraph=True, backend="eager")
    def run(x: Tensor) -> Tensor:
        return integrate(decay, x, moves)

    torch.testing.assert_close(run(X), integrate(decay, X, moves), rtol=0, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Euler(), RK4()], ids=str)
def test_compiled_code_gives_the_same_numbers(network, solver):
    """With code generation: minutes on a machine that has not compiled before."""
    moves, x = plan(uniform(5), solver), X.float()
    field = bind(network)
    plain = integrate(field, x, moves)
    for _ in range(2):
        compiled = integrate(field, x, moves, compile=2)
        torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", [Euler(), RK4()], ids=str)
def test_cuda_graphs_give_the_same_numbers(network, solver):
    moves, x = plan(uniform(7), solver), X.float().cuda()
    field = bind(network.cuda())
    plain = integrate(field, x, moves)
    states = []
    for _ in range(3):
        compiled = integrate(
            field, x, moves, compile=2, hook=lambda moved: states.append(moved.state)
        )
        torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-6)
    assert torch.equal(states[3], states[7])  # kept states are not overwritten by later replays


# Comparison


def test_compare_solvers_ranks_by_error_within_budgets():
    field = counted(FLOW)
    rows = compare_solvers(field, X, [4, 12])
    assert [row.budget for row in rows] == sorted(row.budget for row in rows)
    assert all(0 < row.nfe <= row.budget for row in rows)
    errors = [row.error for row in rows if row.budget == 12]
    assert errors == sorted(errors)
    by_solver = {str(row.solver): row for row in rows if row.budget == 12}
    assert by_solver["Euler()"].steps == 12
    assert by_solver["RK4()"].steps == 3
    assert by_solver["FireFlow()"].steps == 11  # one more evaluation than steps
    assert by_solver["BDIA(gamma=1.0)"].steps == 12
    assert by_solver["RK4()"].error < by_solver["Euler()"].error
    exact = FLOW.flow_map(X)
    euler = integrate(FLOW, X, plan(uniform(12), Euler()))
    assert by_solver["Euler()"].error == pytest.approx(
        (euler - exact).square().mean().sqrt().item(), rel=1e-4
    )


def test_compare_solvers_leaves_out_what_cannot_step():
    rows = compare_solvers(decay, X, [1], solvers=[Euler(), RK4()])
    assert [row.solver for row in rows] == [Euler()]


@pytest.mark.parametrize("budgets", [[], [4, 0]])
def test_compare_solvers_needs_budgets(budgets):
    with pytest.raises(ValueError, match="budgets must be 1 or more"):
        compare_solvers(decay, X, budgets)
