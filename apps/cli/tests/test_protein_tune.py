"""Solvers and searched times of proteins, on a narrow random network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import BDIA, GHVB, Adams, Context, DPMSolverPP2M, Euler
from rectiflow_cli.main import main
from rectiflow_protein.flow import ClampedExponentialSchedule, FrameEuler, LinearSchedule
from rectiflow_protein.frames import FRAME_SPACE
from rectiflow_protein.split import FrameSplit


def drift(x, t):
    return {"trans": torch.sin(x["trans"]) + t, "rot": torch.ones_like(x["trans"])}


def frames():
    generator = torch.Generator().manual_seed(0)
    shapes = {"trans": (2, 3, 3), "rot": (2, 3)}
    return FRAME_SPACE.prior(shapes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("solver", [Adams(3), GHVB(2, 0.8), BDIA(), DPMSolverPP2M()], ids=str)
def test_translations_go_as_the_solver_alone_takes_them_and_rotations_as_the_schedule(solver):
    x0, times = frames(), [0.01, 0.2, 0.5, 0.8, 0.95]
    split = FrameSplit(solver, ClampedExponentialSchedule(3.0))
    moved = integrate(drift, x0, plan(times, split), space=FRAME_SPACE)
    alone = integrate(lambda x, t: torch.sin(x) + t, x0["trans"], plan(times, split.solver))
    assert torch.equal(moved["trans"], alone)
    euler = FrameEuler(ClampedExponentialSchedule(3.0))
    turned = integrate(drift, x0, plan(times, euler), space=FRAME_SPACE)
    assert torch.allclose(moved["rot"], turned["rot"], atol=1e-12)
    assert plan(times, split).nfe == 4


def test_with_euler_it_is_eulers_method():
    x0, times = frames(), [0.1, 0.4, 0.9]
    split = integrate(
        drift, x0, plan(times, FrameSplit(Euler(), LinearSchedule())), space=FRAME_SPACE
    )
    euler = integrate(drift, x0, plan(times, Euler()), space=FRAME_SPACE)
    for name in ("trans", "rot"):
        assert torch.allclose(split[name], euler[name], atol=1e-12)
    assert Context().space.is_flat


def test_times_are_searched_and_used(narrow, tmp_path, capsys):
    out = str(tmp_path / "tuned")
    words = ["protein", "tune", "--lengths", "8,10", "--num", "2", "--weights", narrow]
    words += ["--device", "cpu", "--steps", "2", "--pool", "4", "--epochs", "1"]
    assert main([*words, "--population", "3", "-o", out, "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["grids"]
    assert row["distance"] <= row["equal_steps"]
    sample = ["protein", "sample", "--length", "9", "--weights", out, "--device", "cpu"]
    for name, more in (
        ("searched", ["--steps", "3", "--grid", "searched"]),
        ("multistep", ["--steps", "4", "--solver", "dpmpp-2m", "--grid", "shifted:2"]),
        ("fireflow", ["--steps", "4", "--solver", "fireflow"]),
    ):
        assert main([*sample, *more, "-o", str(tmp_path / name)]) == 0
        told = json.loads((tmp_path / name / "result.json").read_text())["settings"]
        if name == "searched":
            assert told["solver"].endswith("grid=searched(2))")
            assert told["nfe"] == 3
        if name == "multistep":
            assert told["solver"].startswith("OnGrid(solver=FrameSplit(solver=DPMSolverPP2M(")
            assert told["solver"].endswith("grid=shifted(2))")
    capsys.readouterr()
    assert main(["rerun", str(tmp_path / "multistep" / "result.json")]) == 0
    assert "equal" in capsys.readouterr().out
    assert main([*sample, "--solver", "heun", "-o", str(tmp_path / "no")]) == 2
    assert "rotations would have to be added" in capsys.readouterr().err
    assert not Path(tmp_path / "no").exists()
