"""Plans: values that say which moves are made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rectiflow
import torch
from rectiflow.fields import counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.plans import Plan, Segment
from rectiflow.solvers import BDIA, RK4, Adams, DPMSolverPP3M, Euler, FireFlow, Heun

X = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def decay(x, t):
    return -x * (1 + t)


def ends(moves):
    return [(m.start, m.stop) for m in moves]


def test_plans_join_and_reverse():
    moves = plan([0.0, 0.5], Heun()) + plan([0.5, 0.75, 1.0], Euler())
    assert ends(moves) == [(0.0, 0.5), (0.5, 0.75), (0.75, 1.0)]
    assert ends(reverse(moves)) == [(1.0, 0.75), (0.75, 0.5), (0.5, 0.0)]
    assert [str(m.solver) for m in reverse(moves)] == ["Euler()", "Euler()", "Heun()"]
    assert reverse(reverse(moves)) == moves
    assert len(moves) == 3
    assert moves[0] == next(iter(moves))


def test_plans_are_values():
    moves = plan(uniform(3), Adams(2)) + plan([1.0, 0.0], FireFlow())
    names = vars(rectiflow) | {"Segment": Segment}
    assert eval(repr(moves), names) == moves
    assert len({moves, plan(uniform(3), Adams(2)) + plan([1.0, 0.0], FireFlow())}) == 1
    with pytest.raises(AttributeError):
        moves.segments = ()


def test_plans_are_named_in_configurations():
    from hydra.utils import instantiate

    made = instantiate(
        {
            "_target_": "rectiflow.plan",
            "grid": {"_target_": "rectiflow.grids.uniform", "steps": 4},
            "solver": {"_target_": "rectiflow.Adams", "order": 3},
        }
    )
    assert made == plan(uniform(4), Adams(3))


@pytest.mark.parametrize(
    "grid",
    [
        torch.linspace(0, 1, 11),
        torch.linspace(0, 1, 11, dtype=torch.float64),
        np.linspace(0, 1, 11),
        np.linspace(0, 1, 11, dtype=np.float32),
        (i / 10 for i in range(11)),
    ],
    ids=["float32", "float64", "numpy", "numpy float32", "generator"],
)
def test_times_are_numbers_whatever_was_given(grid):
    seen = []

    def field(x, t):
        seen.append(t)
        return x

    moves = plan(grid, FireFlow())
    assert {type(t) for m in moves for t in m[:2]} == {float}
    integrate(field, X, moves)
    assert {type(t) for t in seen} == {float}
    assert ends(moves)[-1][1] == 1.0


def test_joins_have_a_tolerance_and_memory_goes_across():
    """float32 rounds 0.3 by 1e-8; the two-step method must not see a gap there."""
    whole = plan(torch.linspace(0, 0.3, 4), Adams(2)) + plan([0.3, 0.4, 0.5], Adams(2))
    field = counted(decay)
    end = integrate(field, X, whole)
    exact = integrate(decay, X, plan([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], Adams(2)))
    torch.testing.assert_close(end, exact, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match=r"a gap, got a move from 0.6 after one to 0.5"):
        plan([0.0, 0.5], Euler()) + plan([0.6, 1.0], Euler())


@pytest.mark.parametrize("grid", [[0.0, 0.5, 0.5], [0.0, 1.0, 0.5], [0.0, math.nan]])
def test_grids_are_checked(grid):
    with pytest.raises(ValueError, match="strictly increase or strictly decrease"):
        plan(grid, Euler())


def test_too_short_a_grid_and_no_plan():
    with pytest.raises(ValueError, match="at least 2 times, got 1"):
        plan([0.0], Euler())
    with pytest.raises(ValueError, match=r"the plan is empty, got no segments"):
        Plan(())
    with pytest.raises(TypeError, match=r"integrate takes a plan, got list"):
        integrate(decay, X, [(0.0, 1.0, Euler())])


def test_a_plan_may_go_back_and_forth():
    moves = plan([0.0, 0.5], RK4()) + plan([0.5, 0.25], RK4()) + plan([0.25, 1.0], RK4())
    direct = plan([0.0, 0.25], RK4()) + plan([0.25, 1.0], RK4())
    torch.testing.assert_close(
        integrate(decay, X, moves), integrate(decay, X, direct), rtol=0, atol=1e-2
    )


@pytest.mark.parametrize(
    "moves",
    [
        plan(uniform(12), Adams(4)),
        plan(uniform(6), Adams(4)),
        plan([0.0, 0.1], RK4()) + plan(uniform(9, 0.1, 1.0), Adams(4)),
        plan(uniform(9), Adams(4)) + plan(uniform(9)[::-1], Adams(4)),
        plan(uniform(3), Heun()) + plan([1.0, 0.5, 0.0], FireFlow()),
        plan(uniform(9), DPMSolverPP3M()),
    ],
    ids=["adams", "few", "after rk4", "turn", "fireflow after a turn", "3m"],
)
def test_the_cost_of_a_plan_is_known_before_it_is_run(moves):
    field = counted(decay)
    integrate(field, X, moves)
    assert moves.nfe == field.calls


def test_a_slice_is_the_same_moves():
    moves = plan(uniform(10), Adams(4)) + plan([1.0, 0.5], BDIA())
    assert list(moves[:4]) + list(moves[4:]) == list(moves)
    assert list(moves[4:7][1:]) == list(moves)[5:7]
