from __future__ import annotations

import argparse

import pytest
import torch
from rectiflow.commands.methods import SOLVERS, grid_of, listing, rule_of, solver_of
from rectiflow.grids import uniform
from rectiflow.guidance import RectifiedCFG
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import GHVB, RK4, DPMSolverPP2M, Euler, Solver
from rectiflow.spacing import GRIDS, stretched


def field(x, t):
    variance = (1 - t) ** 2 + 0.25 * t**2
    return (0.25 * t - (1 - t)) / variance * x


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_runs_on_every_grid_from_end_to_end(name):
    solver = solver_of(name)
    assert isinstance(solver, Solver)
    x0 = torch.randn(128, 1, generator=torch.Generator().manual_seed(0)).double()
    for grid in GRIDS:
        times = grid_of(grid)(12)
        assert len(times) == 13
        assert (times[0], times[-1]) == (0.0, 1.0)
        x1 = integrate(field, x0, plan(times, solver), noise=KeyedNoise(0, range(128)))
        assert x1.std().item() == pytest.approx(0.5, abs=0.25)  # 1/2, that of the data


def test_parameters_follow_the_name():
    assert solver_of("ghvb:3:0.5") == GHVB(3, 0.5)
    assert solver_of("dpmpp-2m") == DPMSolverPP2M()
    assert grid_of("shifted:2")(2) == pytest.approx([0.0, 1 / 3, 1.0])
    assert repr(grid_of("log-snr:0.02:0.98")) == "log_snr(0.02, 0.98)"
    assert grid_of("shifted:2") == grid_of("shifted:2.0") != grid_of("shifted")


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (solver_of, "rk9", "did you mean rk4"),
        (solver_of, "euler:2", "expected euler, got 'euler:2' with 1 parameter"),
        (solver_of, "adams:two", "expected order of adams:ORDER as a number such as 2, got 'two'"),
        (solver_of, "adams:9", "order must be 1 to 5, got 9"),
        (grid_of, "log-snr:0:1", "grid ends are out of order or range"),
        (grid_of, "shifted:-1", "shift must be positive"),
        (rule_of, "cfg+", "expected a rule of cfg, rectified-cfg"),
        (rule_of, "rectified-cfg++:-1", "gamma must be at least 0"),
    ],
)
def test_bad_names_say_what_is_expected(parse, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse(text)


def test_the_listing_tells_what_the_classes_tell():
    rows = {row["solver"]: row for row in listing()["solvers"]}
    assert rows["rk4"]["order"] == rows["rk4"]["evaluations"] == 4
    assert [rows[name]["rotations"] for name in ("midpoint", "heun")] == ["yes", "no"]
    assert "ghvb:2:0.8" in rows
    assert all(row["what"] for row in rows.values())
    assert {row["grid"].partition(":")[0] for row in listing()["grids"]} >= set(GRIDS)


def test_grids_stretch_to_other_ends():
    assert stretched(uniform(4), 0.2, 1.0) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


class Two:
    """Two linear fields in one network, told apart by the condition; its calls and rows counted."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, t, cond):
        self.rows.append(len(x))
        return cond[:, None] * x + t[:, None]


def test_rectified_cfg_looks_half_a_step_ahead():
    model, x0 = Two(), torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    cond, null = torch.tensor([1.0, 1.0]).double(), torch.tensor([0.5]).double()
    moves = plan([0.0, 0.5, 1.0], Euler())
    x1 = integrate(RectifiedCFG().field(model, cond, null, 3.0, moves), x0, moves)
    assert model.rows == [2, 4, 2, 4]
    x = x0
    for t, h in ((0.0, 0.5), (0.5, 0.5)):
        v = x + t
        ahead = x + h / 2 * v
        x = x + h * (v + 2.0 * ((ahead + t + h / 2) - (0.5 * ahead + t + h / 2)))
    assert torch.allclose(x1, x, atol=1e-14)
    growing = RectifiedCFG(gamma=2.0).field(model, cond, null, 3.0, moves)
    assert torch.equal(growing(x0, 0.0), x0)  # no guidance at the noise


def test_rectified_cfg_at_weight_one_is_the_conditional_field():
    model, x = Two(), torch.ones(2, 1)
    moves = plan(uniform(3), RK4())
    cond = torch.ones(2)
    alone = RectifiedCFG().field(model, cond, torch.zeros(1), 1.0, moves)
    assert torch.equal(integrate(alone, x, moves), integrate(lambda x, t: x + t, x, moves))
    assert model.rows == [2] * 12
