from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import biotite.structure.io as structure_io
import numpy as np
import pytest
from rectiflow_cli.main import main
from rectiflow_cli.protein import sample as verb


@pytest.fixture
def sample(narrow, tmp_path, capsys):
    """Run the command; returns its JSON document."""

    def run(out: str, *words: str, steps: str = "4"):
        given = ["--weights", narrow, "--steps", steps, "--device", "cpu", "-o"]
        code = main(["protein", "sample", *words, *given, str(tmp_path / out), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return json.loads(captured.out)

    return run


def positions(path) -> np.ndarray:
    return structure_io.load_structure(path).coord


def test_structures_are_poly_alanine_that_others_read(sample, tmp_path):
    told = sample("s", "--lengths", "12,16", "--num", "2")
    assert [row["length"] for row in told["samples"]] == [12, 12, 16, 16]
    assert [row["index"] for row in told["samples"]] == [0, 1, 2, 3]
    for row in told["samples"]:
        atoms = structure_io.load_structure(tmp_path / "s" / row["files"][0])
        assert set(atoms.res_name) == {"ALA"}
        assert len(atoms) == 5 * row["length"]
        assert np.isfinite(atoms.coord).all()
    assert {"ca_ca_valid", "clashes", "helix", "radius_of_gyration"} <= set(told["samples"][0])
    assert told["settings"]["nfe"] == 4
    assert len(told["settings"]["weights_hash"]) == 64
    listed = json.loads((tmp_path / "s" / "result.json").read_text())
    assert listed["samples"] == told["samples"]
    assert listed["command"][:2] == ["protein", "sample"]
    assert [path.name for path in (tmp_path / "s").glob(".*")] == [".rectiflow"]


def test_text_has_a_table_and_says_what_comes_next(narrow, tmp_path, capsys):
    words = ["--length", "12", "--steps", "2", "--weights", narrow, "-o", str(tmp_path)]
    assert main(["protein", "sample", *words]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == f"1 structures written to {tmp_path}"
    assert lines[1].split()[:3] == ["length", "samples", "ca_ca_valid"]
    assert lines[-1] == verb.POLY_ALANINE
    assert "poly-alanine" in lines[-1]
    assert captured.err == ""


def test_shards_together_are_the_whole(sample, tmp_path):
    words = ["--lengths", "10:14:2", "--num", "2"]
    whole = sample("whole", *words)
    parts = [sample("parts", *words, "--shard", f"{i}/2") for i in range(2)]
    assert [len(part["samples"]) for part in parts] == [3, 3]
    names = sorted(row["files"][0] for row in whole["samples"])
    assert sorted(row["files"][0] for part in parts for row in part["samples"]) == names
    for name in names:
        np.testing.assert_allclose(
            positions(tmp_path / "parts" / name), positions(tmp_path / "whole" / name), atol=2e-3
        )
    told = {p.name for p in (tmp_path / "parts").glob("result*.json")}
    assert told == {"result-0-of-2.json", "result-1-of-2.json"}
    again = sample("parts", *words)
    assert (again["made"], again["kept"]) == (0, 6)


def test_only_what_is_missing_is_made(sample, tmp_path):
    first = sample("s", "--length", "12", "--num", "2")
    assert (first["made"], first["kept"]) == (2, 0)
    lost = tmp_path / "s" / first["samples"][1]["files"][0]
    before = lost.read_bytes()
    kept = tmp_path / "s" / first["samples"][0]["files"][0]
    stamp = kept.stat().st_mtime_ns
    lost.unlink()
    second = sample("s", "--length", "12", "--num", "3")
    assert (second["made"], second["kept"]) == (2, 1)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp


def test_other_settings_need_another_folder(sample, narrow, tmp_path, capsys):
    sample("s", "--length", "12")
    words = ["--length", "12", "--weights", narrow, "-o", str(tmp_path / "s")]
    assert main(["protein", "sample", *words, "--steps", "5", "--seed", "7"]) == 2
    err = capsys.readouterr().err
    assert "holds results made with other settings (seed 0, now 7; steps 4, now 5)" in err
    assert len(err.splitlines()) == 1


def test_a_stopped_run_leaves_whole_samples_only(sample, narrow, tmp_path, monkeypatch):
    from rectiflow_protein.result import BackboneResult

    write, calls = BackboneResult.write, []

    def stopped(self, folder, suffix=""):
        written = write(self, folder, suffix)
        calls.append(written)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return written

    monkeypatch.setattr(BackboneResult, "write", stopped)
    words = ["--length", "12", "--num", "3", "--steps", "4", "--weights", narrow]
    one = ["--max-pairs", "144"]  # at a time
    assert main(["protein", "sample", *words, *one, "-o", str(tmp_path / "s")]) == 130
    found = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert found == [".rectiflow", "length_012_sample_00000.pdb", "result.json"]
    told = sample("s", "--length", "12", "--num", "3")
    assert (told["made"], told["kept"]) == (2, 1)


def test_trajectories_are_models_of_a_file(sample, tmp_path):
    told = sample("s", "--length", "12", "--trajectory", "--format", "cif")
    stem = told["samples"][0]["files"][0].removesuffix(".cif")
    final = positions(tmp_path / "s" / f"{stem}.cif")
    movies = [positions(tmp_path / "s" / f"{stem}_{k}.cif") for k in ("trajectory", "predictions")]
    assert [movie.shape for movie in movies] == [(4, 60, 3), (4, 60, 3)]
    np.testing.assert_allclose(movies[1][-1], final, atol=2e-3)
    again = sample("s", "--length", "12", "--trajectory", "--format", "cif")
    assert again["kept"] == 1


def test_solvers_and_schedules_change_the_samples(sample, tmp_path):
    flags = {
        "exponential": [],
        "linear": ["--rotation", "linear"],
        "slow": ["--rate", "3"],
        "midpoint": ["--solver", "midpoint"],
        "late": ["--last-time", "1.0"],
        "bfloat16": ["--dtype", "bfloat16"],
    }
    told = {name: sample(name, "--length", "12", *words) for name, words in flags.items()}
    assert told["midpoint"]["settings"]["nfe"] == 7
    assert told["bfloat16"]["settings"]["dtype"] == "bfloat16"
    found = [positions(tmp_path / n / told[n]["samples"][0]["files"][0]).round(2) for n in flags]
    assert len({array.tobytes() for array in found}) == len(flags)


def test_evaluation_reads_the_folder(sample, tmp_path, capsys):
    sample("s", "--lengths", "12,14", "--trajectory")
    words = ["protein", "eval", str(tmp_path / "s"), "-o", str(tmp_path / "e")]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["length"] for row in told["samples"]] == [12, 14]
    assert told["summary"]["count"] == 2
    assert 0 < told["summary"]["diversity_tm"] <= 1
    with (tmp_path / "e" / "metrics.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == [
            row["name"] for row in told["samples"]
        ]
    assert main([*words[:3], "--no-diversity"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("mean ")
    assert "diversity" not in text


def test_evaluation_passes_bad_files_of_a_folder_over(sample, tmp_path, capsys):
    sample("s", "--length", "12")
    (tmp_path / "s" / "bad.pdb").write_text("nothing")
    assert main(["protein", "eval", str(tmp_path / "s"), "--json"]) == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["refused"]) == [str(tmp_path / "s" / "bad.pdb")]
    assert captured.err.startswith("passed over: ")
    assert main(["protein", "eval", str(tmp_path / "s" / "bad.pdb")]) == 2
    assert "bad.pdb" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["protein", "eval", str(tmp_path / "empty")]) == 2
    assert "empty holds a structure, got 0 file(s)" in capsys.readouterr().err


def test_evaluation_takes_novelty_from_a_search(sample, tmp_path, capsys):
    sample("s", "--length", "12")
    name = next((tmp_path / "s").glob("*.pdb")).name
    words = ["protein", "eval", str(tmp_path / "s"), "--foldseek", str(tmp_path / "hits.tsv")]
    hit = [name, "1abc", "0", "12", "0", "0", "1", "12", "1", "12", "0.62", "50"]
    (tmp_path / "hits.tsv").write_text("\t".join(hit) + "\n")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["novelty_tm"] == pytest.approx(0.62)
    (tmp_path / "hits.tsv").write_text("\t".join(["other.pdb", *hit[1:]]) + "\n")
    assert main(words) == 2
    assert "has none of the structures, got ['other']" in capsys.readouterr().err


def test_a_plan_tells_what_it_takes_and_refuses_what_cannot_fit(
    sample, narrow, tmp_path, monkeypatch, capsys
):
    from rectiflow.commands import plan

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--length", "30", "--num", "4"]
    told = sample("s", *words, "--plan")
    assert told["samples"] == 4
    assert told["seconds"] > 0
    assert 0 < told["memory"] < told["free"]
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(plan, "free_memory", lambda device: told["memory"])
    given = ["--weights", narrow, "--steps", "4", "--device", "cpu", "-o", str(tmp_path / "s")]
    for more in (["--plan"], []):  # costs that are known are kept to without asking
        assert main(["protein", "sample", *words, *given, *more]) == 2
        assert "expected --max-pairs" in capsys.readouterr().err
    assert main(["protein", "sample", *words, *given, "--max-pairs", "900"]) == 0
    capsys.readouterr()
    assert main(["protein", "sample", "--length", "200", *given, "--plan"]) == 2
    assert re.search(r"expected --length \d\d or less", capsys.readouterr().err)
    monkeypatch.setattr(plan, "free_memory", lambda device: 1.0)
    assert main(["protein", "sample", "--length", "200", *given, "--plan"]) == 2
    assert "expected a device with more memory" in capsys.readouterr().err


def test_a_result_is_repeated(sample, tmp_path, capsys):
    from rectiflow_protein.io import read_structure, write_structure

    sample("s", "--length", "12", "--num", "2")
    result = tmp_path / "s" / "result.json"
    assert main(["rerun", str(result), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"]
    assert [row["difference"] for row in told["files"]] == ["equal"] * 2
    path = tmp_path / "s" / told["files"][1]["file"]
    chain = read_structure(path)
    write_structure(path, replace(chain, coords=chain.coords + 2))
    listed = json.loads(result.read_text())
    listed["machine"]["python"] = "3.0"
    result.write_text(json.dumps(listed))
    assert main(["rerun", str(result)]) == 0
    text = capsys.readouterr().out
    assert "1 of 2 files are equal" in text
    assert f"{path.name}: off by at most 2" in text
    assert "differs in machine python: 3.0 then" in text
    del listed["command"]
    result.write_text(json.dumps(listed))
    assert main(["rerun", str(result)]) == 2
    assert "names no command" in capsys.readouterr().err


def test_status_tells_what_is_left(sample, tmp_path, capsys):
    sample("s", "--length", "12", "--num", "4", "--shard", "0/2")
    assert main(["status", str(tmp_path / "s"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["complete"], told["absent"]) == (False, ["result-1-of-2.json"])
    sample("s", "--length", "12", "--num", "4", "--shard", "1/2")
    assert main(["status", str(tmp_path / "s")]) == 0
    assert capsys.readouterr().out.startswith("results: complete")
