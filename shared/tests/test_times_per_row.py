"""Rows of one batch at different times, each as if it were alone."""

from __future__ import annotations

import math
import re

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.grids import log_snr, quadratic, shifted, uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.paths import Trigonometric
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    Adams,
    Context,
    Dopri5,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    Euler,
    FireFlow,
    Heun,
    Memory,
    Midpoint,
    PseudoCorrector,
    Refine,
)
from rectiflow.spaces import Euclidean, Product, Rotations


def named(value: object) -> str:
    """Name a test by a solver without the address of a function in it: workers must agree."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


X = torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FLOW = GaussianMixtureFlow(
    torch.tensor([0.6, 0.4]),
    torch.tensor([[0.8, 0.0], [-0.6, 0.5]]),
    torch.stack((0.6 * torch.eye(2), 0.4 * torch.eye(2))),
)
SOLVERS = [
    Euler(),
    Midpoint(),
    Heun(),
    RK4(),
    Adams(2),
    Adams(3, start=None),
    Adams(4),
    GHVB(2, 0.8),
    GHVB(3, 0.7, start=None),
    GHVB(3, 0.7),
    HB(2, 0.8),
    FireFlow(),
    PseudoCorrector(),
    Refine(lambda x, t, v: FLOW(x, t) - v),
    BDIA(),
    BDIA(0.8),
    DDIM(),
    DPMSolver2(),
    DPMSolver3(),
    DPMSolverPP2S(),
    DPMSolverPP2M(),
    DPMSolverPP3M(),
    Dopri5(1e-5, 1e-5),
]
# Ten steps each: touching both ends, one end, none.
GRIDS = [uniform(10), shifted(10, 2.0), log_snr(10, 0.02, 0.98), quadratic(10, 0.1, 1.0)]


def alone(solver, grid, x, field=FLOW, **options):
    return integrate(field, x, plan(grid, solver), **options)


def together(solver, grids, x, memory=None, space=None):
    """Move all rows at once, each along its own grid."""
    moves = [list(plan(grid, solver)) for grid in grids]
    for row in zip(*moves, strict=True):
        start, stop = (torch.tensor([m[i] for m in row], dtype=torch.float64) for i in (0, 1))
        context = Context(space or Euclidean(), memory=memory)
        x, memory = row[0].solver.step(FLOW, x, start, stop, context)
    return x, memory


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_rows_of_different_grids(solver):
    end, _ = together(solver, GRIDS, X)
    each = [alone(solver, grid, X[i : i + 1]) for i, grid in enumerate(GRIDS)]
    torch.testing.assert_close(end, torch.cat(each), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [s for s in SOLVERS if not isinstance(s, BDIA)], ids=named)
def test_rows_that_go_up_and_rows_that_go_down(solver):
    grids = [grid if i % 2 else grid[::-1] for i, grid in enumerate(GRIDS)]
    end, _ = together(solver, grids, X)
    each = [alone(solver, grid, X[i : i + 1]) for i, grid in enumerate(grids)]
    torch.testing.assert_close(end, torch.cat(each), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_a_batch_may_be_empty_and_a_run_one_step(solver):
    assert alone(solver, GRIDS[0], X[:0]).shape == (0, 2)
    none = torch.empty(0, dtype=torch.float64)
    assert solver.step(FLOW, X[:0], none, none, Context())[0].shape == (0, 2)
    one = alone(solver, [0.2, 0.5], X)
    assert one.shape == X.shape
    rows, _ = together(solver, [[0.2, 0.5]] * 4, X)
    torch.testing.assert_close(rows[:1], alone(solver, [0.2, 0.5], X[:1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS, ids=named)
def test_rows_of_different_age(solver):
    """A new row joins every second step and the oldest leaves: a stream of samples."""
    settled = plan(uniform(12), solver)[0].solver  # the solver as a plan of twelve steps has it
    if isinstance(solver, DPMSolverPP2M | DPMSolverPP3M):
        settled = type(solver)(lower_order_final=False)
    grids = [uniform(12), shifted(12, 3.0), log_snr(12, 0.05, 0.95), uniform(12, 0.2, 1.0)]
    ages, memory, ended = [], None, {}
    rows: list[int] = []
    x = X[:0]
    for tick in range(30):
        if tick % 2 == 0 and tick < 8:
            row = tick // 2
            memory = Memory.cat([memory, None], [len(rows), 1])
            x, rows, ages = torch.cat((x, X[row : row + 1])), [*rows, row], [*ages, 0]
        if not rows:
            break
        ends = [(grids[r][a], grids[r][a + 1]) for r, a in zip(rows, ages, strict=True)]
        start, stop = torch.tensor(ends, dtype=torch.float64).unbind(1)
        x, memory = settled.step(FLOW, x, start, stop, Context(memory=memory))
        ages = [a + 1 for a in ages]
        kept = [i for i, a in enumerate(ages) if a < 12]
        for i, (row, age) in enumerate(zip(rows, ages, strict=True)):
            if age == 12:
                ended[row] = x[i : i + 1]
        x, rows, ages = x[kept], [rows[i] for i in kept], [ages[i] for i in kept]
        memory = memory.rows(kept)
    assert sorted(ended) == [0, 1, 2, 3]
    for row, grid in enumerate(grids):
        own = alone(settled, grid, X[row : row + 1])
        torch.testing.assert_close(ended[row], own, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_rows_of_which_some_turn_back(gamma):
    """BDIA undoes two rows while the others go on; without a memory a row may not go down."""
    grid = uniform(8)
    half, memory = integrate(FLOW, X, plan(grid, BDIA(gamma))[:4], return_memory=True)
    up = list(plan(grid, BDIA(gamma))[4:])
    down = list(reverse(plan(grid, BDIA(gamma))))[4:]
    x = half
    for a, b in zip(up, down, strict=True):
        start = torch.tensor([a.start, b.start, b.start, a.start], dtype=torch.float64)
        stop = torch.tensor([a.stop, b.stop, b.stop, a.stop], dtype=torch.float64)
        x, memory = BDIA(gamma).step(FLOW, x, start, stop, Context(memory=memory))
    whole = alone(BDIA(gamma), grid, X)
    torch.testing.assert_close(x[[0, 3]], whole[[0, 3]], rtol=0, atol=1e-12)
    torch.testing.assert_close(x[[1, 2]], X[[1, 2]], rtol=0, atol=1e-12)
    start, stop = torch.tensor([[0.5, 0.0], [0.4, 0.1]], dtype=torch.float64)
    with pytest.raises(ValueError, match="BDIA inverts exactly only with the memory"):
        BDIA(gamma).step(FLOW, X[:2], start, stop, Context())


def test_rows_with_and_without_a_start():
    """RK4 starts two rows of Adams' method while the others go on."""
    half, memory = integrate(FLOW, X[:2], plan(uniform(10), Adams(4))[:6], return_memory=True)
    memory = Memory.cat([memory, None], [2, 2])
    x, grid = torch.cat((half, X[2:])), uniform(10)
    solver = plan(grid, Adams(4))[0].solver
    for i in range(4):
        start = torch.tensor([grid[6 + i]] * 2 + [grid[i]] * 2, dtype=torch.float64)
        stop = torch.tensor([grid[7 + i]] * 2 + [grid[i + 1]] * 2, dtype=torch.float64)
        x, memory = solver.step(FLOW, x, start, stop, Context(memory=memory))
    torch.testing.assert_close(x[:2], alone(Adams(4), grid, X[:2]), rtol=0, atol=1e-12)
    first = integrate(FLOW, X[2:], plan(grid, Adams(4))[:4])
    torch.testing.assert_close(x[2:], first, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [DPMSolver3(Trigonometric()), DPMSolverPP2M(Trigonometric())])
def test_rows_on_another_path(solver):
    end, _ = together(solver, GRIDS, X)
    each = [alone(solver, grid, X[i : i + 1]) for i, grid in enumerate(GRIDS)]
    torch.testing.assert_close(end, torch.cat(each), rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), FireFlow()], ids=named)
def test_rows_on_frames(solver):
    space = Product({"trans": Euclidean(), "rot": Rotations()})
    generator = torch.Generator().manual_seed(0)
    x = {
        "trans": torch.randn(4, 5, 3, generator=generator, dtype=torch.float64),
        "rot": Rotations().prior((4, 5), generator=generator, dtype=torch.float64),
    }

    def field(x, t):
        turned = x["rot"][..., 1:] * (t if isinstance(t, float) else t[:, None, None])
        return {"trans": torch.sin(x["trans"]) + turned, "rot": x["trans"] - turned}

    moves = [list(plan(grid, solver)) for grid in GRIDS]
    y, memory = x, None
    for row in zip(*moves, strict=True):
        start, stop = (torch.tensor([m[i] for m in row], dtype=torch.float64) for i in (0, 1))
        y, memory = solver.step(field, y, start, stop, Context(space, memory=memory))
    for i, grid in enumerate(GRIDS):
        one = {name: part[i : i + 1] for name, part in x.items()}
        own = alone(solver, grid, one, field, space=space)
        for name, part in own.items():
            torch.testing.assert_close(y[name][i : i + 1], part, rtol=0, atol=1e-12)


def test_memories_are_taken_apart_and_put_together():
    runs = [
        integrate(FLOW, X[i : i + 1], plan(uniform(10), Adams(3))[:n], return_memory=True)
        for i, n in enumerate((1, 2, 5))
    ]
    memory = Memory.cat([m for _, m in runs], [1, 1, 1])
    assert memory.stop.tolist() == pytest.approx([0.1, 0.2, 0.5])
    times = [t.tolist() for t, _ in memory.get("velocity")]
    assert math.isnan(times[1][0])
    assert times[1][1:] == pytest.approx([0.0, 0.3])
    last = memory.rows([2]).get("velocity")
    for (t, v), (t_own, v_own) in zip(last, runs[2][1].get("velocity"), strict=True):
        assert t.item() == t_own
        assert torch.equal(v, v_own)
    assert Memory.cat([None, None], [1, 2]) is None
    assert Memory.cat([memory.rows([0]), memory.rows([1, 2])], [1, 2]).stop.equal(memory.stop)


def test_times_of_rows_in_half_precision_keep_their_digits():
    """They meet the state only after the step is taken in float64."""
    start = torch.tensor([0.1, 0.7], dtype=torch.float64)
    stop = start + 1e-5
    x, _ = Euler().step(lambda x, t: torch.ones_like(x), X[:2].float(), start, stop, Context())
    moved = (x - X[:2].float()).double()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-5), rtol=0.05, atol=0)
