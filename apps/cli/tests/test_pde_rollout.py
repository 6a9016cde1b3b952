"""``rectiflow pde``: training on Kuramoto-Sivashinsky flows, rollouts and their measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rectiflow_cli import main
from rectiflow_pde.data.states import solve_few


def rectiflow(*words):
    return main.main(["pde", *map(str, words)])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return solve_few(tmp_path_factory.mktemp("waves") / "shards")


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "refiner"
    words = ("experiment=small_refiner", "debug=tiny_refiner", f"data.dir={shards}")
    assert rectiflow("train", *words, f"run_dir={folder}", f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "state.npz"
    np.savez(path, u=np.sin(2 * np.pi * np.arange(32) / 32), length=16.0)
    return path


def test_a_state_becomes_a_trajectory(run, state, tmp_path, capsys):
    out = tmp_path / "out"
    words = (state, "--weights", run, "--steps", 3, "--num", 2, "-o", out)
    assert rectiflow("rollout", *words, "--draw", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["way"] == "Refinement(steps=3, smallest=4e-07)"
    with np.load(out / "rollout_0001.npz") as made:
        assert made["u"].shape == (4, 32)
        assert made["times"].tolist() == pytest.approx([0, 0.8, 1.6, 2.4])
    assert (out / "rollout_0001.png").is_file()
    assert rectiflow("rollout", *words, "--draw", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    assert main.main(["rerun", str(out / "result.json")]) == 0


def test_bad_states_are_told_in_a_line(run, state, tmp_path, capsys):
    np.save(tmp_path / "plain.npy", np.zeros(32))
    told = ("--weights", run, "-o", tmp_path / "out")
    assert rectiflow("rollout", state, *told[2:]) == 2
    assert "experiment=small_refiner" in capsys.readouterr().err
    for words, said in (
        ((tmp_path / "plain.npy",), "add --length L"),
        ((tmp_path / "absent.npy", "--length", 16), "absent.npy"),
        ((state, "--length", -1), "must be positive"),
    ):
        capsys.readouterr()
        assert rectiflow("rollout", *words, *told) == 2
        assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_rollouts_are_measured_against_solved_flows(run, shards, tmp_path, capsys):
    out = tmp_path / "out"
    told = (shards, "--weights", run, "--ensemble", 2, "-o", out)
    assert rectiflow("eval", *told, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["summary"]) == {f"{run}", f"{run} as a flow"}
    assert document["summary"][str(run)]["calls"] == 4
    assert {"correlation_time_0.8", "trusted_time"} <= set(document["samples"][0])
    assert (out / "spectrum.png").is_file()
    assert rectiflow("eval", *told[:-2]) == 0
    assert "correlation_time_0.9" in capsys.readouterr().out
    assert rectiflow("eval", *told[:-2], "--steps", 3) == 2
    assert "leave --steps out" in capsys.readouterr().err
