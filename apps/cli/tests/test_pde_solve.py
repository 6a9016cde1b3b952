"""``rectiflow pde solve`` and ``prepare``: what they write, tell and refuse."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from rectiflow_cli.errors import guarded
from rectiflow_cli.pde import prepare, solve
from rectiflow_pde.data import PreparedFlows

VERBS = {"solve": solve.main, "prepare": prepare.main}


def run(line: str) -> int:
    verb, *words = shlex.split(line)
    return guarded(VERBS[verb], words)


@pytest.mark.usefixtures("in_work")
def test_a_flow_in_words_is_solved_written_and_prepared_again(capsys):
    asked = '--prompt "cylinder of radius 0.05 m, Re = 80" --edge 0.02 --splits 1,0,0'
    frames = "--frames 3 --start 0.01 --frame-step 0.005"
    assert run(f"solve cylinder {asked} {frames} --paraview pvd -o solved") == 0
    told = capsys.readouterr()
    assert "accepted 1 flow" in told.out
    assert "position not given; default taken" in told.err
    [flow] = PreparedFlows("solved")
    assert flow.parameters["u_mean"] == pytest.approx(0.8, rel=1e-5)
    assert flow.parameters["radius"] == pytest.approx(0.05)
    assert len(list(Path("solved/paraview").iterdir())) == 4
    units = "--viscosity 1e-3 --density 1 --infer-boundaries"
    assert run(f"prepare solved/paraview -o again {units} --splits 1,0,0 --json") == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 1
    [again] = PreparedFlows("again")
    assert np.allclose(again.stacked, flow.stacked, atol=1e-6)
    assert again.parameters["reynolds"] == pytest.approx(80, rel=1e-3)
    assert run("prepare solved/paraview -o third") == 2
    told = capsys.readouterr()
    assert "no flow of 1 inputs was accepted" in told.err
    assert "does not say what" in told.out


@pytest.mark.usefixtures("in_work")
def test_grids_are_solved(capsys):
    assert run("solve smoke --cells 16 --frames 2 --buoyancy 0.3 -o smoke --json") == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 1
    assert run("solve ks --points 32 --frames 2 --start 1 --num 2 -o ks") == 0
    assert "accepted 2 flows" in capsys.readouterr().out


CYLINDER = "solve cylinder --radius 0.05 --centre-x 0.3 --centre-y 0.2"
REFUSED = {
    f"{CYLINDER} --viscosity 0": "viscosity must be positive, got 0",
    f"{CYLINDER} --reynolds -100": "Reynolds number must be positive, got -100",
    f"{CYLINDER} --reynolds 100 --edge 0.06": "too coarse: 5 around",
    f"{CYLINDER} --inflow 1 --edge 0.011 --time-step 0.005": "largest stable one is 0.000807 s",
    f"{CYLINDER} --frames 0": "frames must be at least 1",
    f"{CYLINDER} --reynolds 9,3": "expected A or A,B with A at most B",
    f'{CYLINDER} --prompt "Re 100"': "--prompt tells the parameters",
    "solve cylinder --radius 0.05 --centre-x 0.3 --centre-y 0.5": "upper wall of the channel",
    "solve cylinder --radius 0.05 --centre-x 0.03 --centre-y 0.2": "inflow of the channel",
    'solve cylinder --prompt ""': "prompt is empty",
    "solve ks --cells 3": "--cells is for smoke, got it with ks",
    "solve smoke --frame-step 1": "whole steps of 1.5",
    "prepare nowhere": "expected files of flows",
    "prepare . --density -1": "density must be positive, got -1",
    "prepare . --boundaries 5=door": "expected NAME=KIND",
}


@pytest.mark.parametrize("line", REFUSED)
@pytest.mark.usefixtures("in_work")
def test_the_impossible_is_one_line(line, capsys):
    assert run(f"{line} -o refused") == 2
    told = capsys.readouterr().err
    assert REFUSED[line] in told
    assert len(told.strip().splitlines()) == 1
    assert not Path("refused").exists()


@pytest.mark.usefixtures("in_work")
def test_frames_far_apart_are_warned_of(caplog):
    line = f"{CYLINDER} --inflow 1 --edge 0.02 --start 0.001 --frames 2 --frame-step 0.24"
    import rectiflow_pde.data.solve as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "solve_cylinder", _none)
        assert run(f"{line} -o far") == 2
    assert "aliased" in caplog.text


def _none(flow):
    raise ValueError("not here")
