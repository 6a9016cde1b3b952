"""The commands of the trajectories domain, end to end on a narrow network and short runs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from rectiflow_cli import main
from rectiflow_trajectories import TrajectoryPipeline
from rectiflow_trajectories.training import RECIPE


def rectiflow(*words):
    return main.main(["trajectories", *map(str, words)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Simulated runs of both kinds, as a user has them."""
    folder = tmp_path_factory.mktemp("runs")
    for system in ("charged", "springs"):
        words = ("--num", 12, "--steps", 900, "-o", folder / system)
        assert rectiflow("simulate", system, *words) == 0
    return folder


@pytest.fixture(scope="module")
def shards(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "shards"
    words = ("--given", 3, "--frames", 4, "--splits", "0.5,0.25,0.25")
    assert rectiflow("prepare", runs, "-o", out, *words) == 0
    return out


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run folder of a few steps."""
    folder = tmp_path_factory.mktemp("run") / "flow"
    words = ("debug=tiny", f"data.dir={shards}", f"hydra.run.dir={folder}")
    assert rectiflow("train", *words) == 0
    return folder


def test_simulated_runs_are_those_of_their_numbers(runs, tmp_path, capsys):
    words = ("simulate", "charged", "--num", 5, "--steps", 900, "-o", tmp_path / "few", "--json")
    assert rectiflow(*words) == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 8
    few, many = (np.load(f / "loc_charged.npy") for f in (tmp_path / "few", runs / "charged"))
    np.testing.assert_array_equal(few, many[:5])
    assert rectiflow("simulate", "gravity", "--steps", 50, "-o", tmp_path / "none") == 2
    assert "no frame at every 100th" in capsys.readouterr().err


def test_training_exports_what_forecasts(run, runs, tmp_path, capsys):
    pipe = TrajectoryPipeline.from_pretrained(run)
    assert (pipe.settings.kind, pipe.settings.noise, pipe.network.given) == ("particles", 1.0, 3)
    path = runs / "charged" / "loc_charged.npy"
    words = ("forecast", path, "--upto", 5, "--limit", 2, "--weights", run, "--steps", 2, "--json")
    assert rectiflow(*words, "-o", tmp_path / "out") == 0
    document = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in document["samples"]]
    assert names == ["loc_charged_0000", "loc_charged_0001"]
    with np.load(tmp_path / "out" / "loc_charged_0001.npz") as made:
        assert made["futures"].shape == (5, 4, 5, 3)
        np.testing.assert_array_equal(made["given"], np.load(path)[1, 2:5])
    assert rectiflow(*words, "-o", tmp_path / "out") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    listed = tmp_path / "out" / "result.json"
    np.savez(tmp_path / "out" / "loc_charged_0001.npz", futures=np.zeros((5, 4, 5, 3)))
    assert main.main(["rerun", str(listed)]) == 0
    said = capsys.readouterr().out
    assert "1 of 2 files are equal" in said
    assert "loc_charged_0001.npz: off by at most" in said
    assert main.main(["status", str(tmp_path / "out")]) == 0
    assert "results: complete" in capsys.readouterr().out


def test_a_table_of_a_user(run, tmp_path, capsys):
    rows = [f"{t},{n},{t + n},{n},0" for t in range(4) for n in range(3) if (t, n) != (2, 1)]
    path = tmp_path / "walk.csv"
    path.write_text("\n".join(["frame,node,x,y,z", *rows]) + "\n")
    words = ("--weights", run, "--unit", "m", "--num", 2, "--format", "csv")
    assert rectiflow("forecast", path, *words, "-o", tmp_path / "out") == 0
    told = capsys.readouterr()
    assert "1 missing places are filled in" in told.err
    assert "the weights know no unit; m are taken for theirs" in told.err
    assert len((tmp_path / "out" / "walk.csv").read_text().split()) == 1 + 3 * 3 + 2 * 4 * 3
    assert RECIPE.numbers(tmp_path / "out" / "walk.csv").shape == (3 * 3 + 2 * 4 * 3, 3)
    path.write_text("frame,node,x,y,z\n0,a,1,2,3\n")
    assert rectiflow("forecast", path, "--weights", run, "-o", tmp_path / "one") == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert "has 1 frame(s), and the network is told 3; expected at least 3" in said[-1]


def test_guesses_and_forecasts_are_measured(run, shards, tmp_path, capsys):
    assert rectiflow("eval", shards, "--json") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["velocity_ade"] < summary["last_ade"]
    words = ("--weights", run, "--steps", 1, 3, "--num", 2, "--limit", 4)
    assert rectiflow("eval", shards, *words, "-o", tmp_path / "out", "--json") == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["windows"] == 4
    assert summary["min_ade@3"] <= summary["ade@3"]
    assert (tmp_path / "out" / "metrics.csv").read_text().count("\n") == 1 + 2 * 4
    assert rectiflow("eval", shards, "--num", 2, "--clusters", 3) == 2
    assert "--clusters must be at most --num 2, got 3" in capsys.readouterr().err


def test_pairs_train_a_student(run, shards, tmp_path, capsys):
    words = ("--num", 30, "--batch", 10, "--steps", 2, "--weights", run)
    assert rectiflow("pairs", shards, *words, "-o", tmp_path / "pairs") == 0
    fast = ("trainer.max_steps=2", "trainer.checkpoint_every=2", "trainer.validate_every=2")
    told = (f"data.dir={tmp_path / 'pairs'}", f"weights={run}", "trainer.accelerator=cpu", *fast)
    assert rectiflow("reflow", *told, f"hydra.run.dir={tmp_path / 'student'}") == 0
    teacher, student = map(TrajectoryPipeline.from_pretrained, (run, tmp_path / "student"))
    assert student.settings == teacher.settings
    torch.testing.assert_close(student.network.ws, teacher.network.ws, rtol=0, atol=0)
    assert rectiflow("pairs", shards, "--real", "--weights", run, "-o", tmp_path / "no") == 2


def test_whole_trajectories_and_the_authors_diffusion(runs, tmp_path, capsys):
    """By the published diffusion: prepared, trained, sampled, measured, converted."""
    out, run = tmp_path / "shards", tmp_path / "run"
    words = ("--given", 0, "--frames", 4, "--most", 1, "--splits", "0.5,0.25,0.25")
    assert rectiflow("prepare", runs, "-o", out, *words) == 0
    diffusion = ("training=diffusion", "training.objective.diffusion.steps=30")
    words = ("debug=tiny", *diffusion, "network.given=0", f"data.dir={out}")
    assert rectiflow("train", *words, f"hydra.run.dir={run}") == 0
    for flags in ((), ("--ancestral",)):
        made = tmp_path / f"made{len(flags)}"
        words = ("--num", 3, "--weights", run, *flags)
        assert rectiflow("sample", out, *words, "-o", made) == 0
        with np.load(made / "trajectory_0002.npz") as found:
            assert found["futures"].shape == (1, 4, 5, 3)
            assert found["given"].shape == (0, 5, 3)
    capsys.readouterr()
    words = ("--weights", run, "--steps", 2, "--num", 1, "--bound", "--json")
    assert rectiflow("eval", out, *words) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert {"marginal@2", "marginal_normal@2", "bound"} <= set(summary)
    assert rectiflow("eval", out, "--bound") == 2
    own = run / "export"
    assert rectiflow("convert", own, "--to", "official", "-o", tmp_path / "theirs") == 0
    words = (tmp_path / "theirs" / "geotdm.pt", "--frames", 4, "--diffusion", 30)
    assert rectiflow("convert", *words, "-o", tmp_path / "ours") == 0
    ours, before = map(TrajectoryPipeline.from_pretrained, (tmp_path / "ours", own))
    assert ours.settings.diffusion == 30
    read = ours.network.state_dict()
    for name, value in before.network.state_dict().items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)


def test_data_of_another_kind_is_refused(shards, tmp_path, capsys):
    told = ("debug=tiny", "network.given=2", f"data.dir={shards}")
    assert rectiflow("train", *told, f"hydra.run.dir={tmp_path / 'run'}") == 2
    said = capsys.readouterr().err
    assert "the data has given 3, got a network for 2" in said
    assert "Set network.given=3" in said


def test_the_card_moves(run, runs, tmp_path, capsys, monkeypatch):
    told = ("demo", "--domain", "trajectories", "--num", "2", "--steps", "2", "--json")
    out, own = tmp_path / "card", str(runs / "charged" / "loc_charged.npy")
    assert main.main([*told, "--weights", str(run), "--input", own, "-o", str(out)]) == 0
    found = json.loads((out / "result.json").read_text())["domains"]["trajectories"]
    assert "No trained network" not in (out / "index.html").read_text()
    assert "loc_charged: forecast" in found["errors"]
    assert (out / found["animation"]).read_bytes()[:6] == b"GIF89a"
    monkeypatch.setattr(TrajectoryPipeline, "shipped", tmp_path / "none")
    assert main.main([*told, "-o", str(tmp_path / "bare")]) == 0
    assert "No trained network ships" in (tmp_path / "bare" / "index.html").read_text()
