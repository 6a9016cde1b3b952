"""``rectiflow diagnose``: the flows of the domains, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from rectiflow_cli import main

CHEAP = ["--num", "1", "--steps", "2", "--times", "0.5", "--probes", "1", "--device", "cpu"]


def diagnosed(capsys, *words):
    assert main.main(["diagnose", *words, *CHEAP, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [row] = told["times"]
    assert 0 < row["asymmetry"] < 4
    assert row["gauge"] >= 0
    return told["dimensions"]


def test_the_shipped_shapes(capsys):
    assert diagnosed(capsys, "shape") == 4352


def test_positions_of_shipped_proteins(capsys):
    assert diagnosed(capsys, "protein", "--lengths", "12") == 33
    assert main.main(["diagnose", "protein", "--lengths", "12,16"]) == 2
    assert "chains of one length" in capsys.readouterr().err


@pytest.mark.parametrize("given", [5, 0])
def test_trajectories_told_frames_and_none(given, tmp_path, capsys):
    from rectiflow_trajectories.networks import EGTN
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

    runs, shards, weights = (str(tmp_path / name) for name in ("runs", "shards", "weights"))
    simulate = ["trajectories", "simulate", "charged", "--num", "4", "--steps", "2100"]
    assert main.main([*simulate, "-o", runs]) == 0
    cut = ["--given", str(given), "--frames", "6", "--splits", "0.5,0.25,0.25"]
    assert main.main(["trajectories", "prepare", runs, "-o", shards, *cut]) == 0
    torch.manual_seed(0)
    network = EGTN(hidden=8, layers=1, time_dim=8, prior_layers=1, given=given, frames=6)
    TrajectoryPipeline(network).save_pretrained(weights)
    capsys.readouterr()
    size = diagnosed(capsys, "trajectories", shards, "--weights", weights)
    assert size == (5 * 6 * 3 if given else (5 * 6 - 1) * 3)


def test_a_prior_of_slices_is_diagnosed_and_tuned(tmp_path, capsys):
    from rectiflow_imaging.networks import ImageUNet
    from rectiflow_imaging.pipeline import ImagePipeline

    torch.manual_seed(0)
    network = ImageUNet(side=8, width=8, multipliers=(1, 2))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights, out = str(tmp_path / "weights"), str(tmp_path / "tuned")
    ImagePipeline(network).save_pretrained(weights)
    assert diagnosed(capsys, "imaging", "--weights", weights) == 64
    words = ["imaging", "tune", "--weights", weights, "--num", "2", "--steps", "2", "--pool", "4"]
    words += ["--epochs", "1", "--population", "4", "-o", out, "--device", "cpu", "--json"]
    assert main.main(words) == 0
    [row] = json.loads(capsys.readouterr().out)["grids"]
    assert row["distance"] <= row["equal_steps"]
    sample = ["imaging", "sample", "--weights", out, "--num", "1", "--steps", "2"]
    assert main.main([*sample, "--grid", "searched", "-o", str(tmp_path / "drawn")]) == 0


def test_what_cannot_be_diagnosed_is_told(capsys):
    assert main.main(["diagnose", "shapes"]) == 2
    assert "Did you mean 'shape'?" in capsys.readouterr().err
    assert main.main(["diagnose"]) == 2
    assert "rectiflow diagnose --help" in capsys.readouterr().err
