"""What ``protein eval`` keeps apart, passes over, says and draws."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rectiflow_cli.main import main
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure, write_structure


@pytest.fixture
def protein():
    return read_structure(PROTEIN_G)


@pytest.fixture
def evaluate(capsys):
    def _evaluate(*words, code=0):
        assert main(["protein", "eval", *map(str, words), "--json"]) == code
        captured = capsys.readouterr()
        return json.loads(captured.out) if code == 0 else None, captured.err

    return _evaluate


def names(document):
    return [row["name"] for row in document["samples"]]


def test_folders_with_equal_file_names_are_kept_apart(protein, evaluate, tmp_path):
    for folder, part in (("a", protein), ("b", protein[:30])):
        write_structure(tmp_path / folder / "x.pdb", part)
    write_structure(tmp_path / "a" / "y.pdb", protein)
    out = tmp_path / "out"
    told, _ = evaluate(tmp_path / "a", tmp_path / "b", "-o", out)
    same = [str(tmp_path / "a" / "x.pdb"), str(tmp_path / "b" / "x.pdb")]
    assert names(told) == [same[0], "y", same[1]]
    assert [row["length"] for row in told["samples"]] == [56, 56, 30]
    with (out / "metrics.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file)] == names(told)
    (tmp_path / "hits.tsv").write_text("\t".join(["x.pdb", *"abcdefghi", "0.62", "50"]) + "\n")
    _, err = evaluate(tmp_path / "a", tmp_path / "b", "--foldseek", tmp_path / "hits.tsv", code=2)
    assert "cannot tell 2 structures apart that are all called x" in err


def test_chains_and_files_do_not_share_a_name(protein, evaluate, tmp_path):
    both = replace(protein, chain_ids=np.array(["A"] * 28 + ["B"] * 28))
    write_structure(tmp_path / "x.pdb", both)
    write_structure(tmp_path / "x_A.pdb", protein)
    told, _ = evaluate(tmp_path)
    assert len(set(names(told))) == 3
    assert "x_B" in names(told)


def test_a_file_named_twice_is_measured_once(protein, evaluate, tmp_path):
    path = write_structure(tmp_path / "x.pdb", protein)
    told, _ = evaluate(path, tmp_path, path)
    assert names(told) == ["x"]


def test_trajectories_are_not_scored_on_their_noise(protein, evaluate, tmp_path):
    noise = np.random.default_rng(0).normal(0, 20, protein.coords.shape).astype(np.float32)
    movie = [replace(protein, coords=noise), protein]
    write_structure(tmp_path / "x.pdb", protein)
    path = write_structure(tmp_path / "x_trajectory.pdb", movie)
    told, err = evaluate(tmp_path)
    assert names(told) == ["x"]
    assert "passed over: 1 trajectories beside their structures" in err
    renamed = path.rename(tmp_path / "mine.pdb")
    told, err = evaluate(renamed)
    assert told["samples"][0]["ca_ca_strict"] == 1
    assert "left out of" in err
    assert "model 1 leads from noise to the last" in err


def test_everything_that_is_left_out_is_printed(protein, evaluate, tmp_path):
    path = write_structure(tmp_path / "x.pdb", protein)
    lines = path.read_text().splitlines(keepends=True)
    lost = {5: " O  ", 9: " N  ", 20: " CA ", 31: " C  ", 40: " O  ", 41: " O  ", 50: " N  "}
    kept = [x for x in lines if not (x[:4] == "ATOM" and lost.get(int(x[22:26])) == x[12:16])]
    path.write_text("".join(kept))
    told, err = evaluate(path)
    assert len(told["left_out"][str(path)]) == len(lost)
    said = re.findall(r"left out of \S+: A/(\d+) \w{3} lacks", err)
    assert [int(number) for number in said] == list(lost)


def test_the_bound_of_reading_can_be_raised(protein, evaluate, tmp_path):
    path = write_structure(tmp_path / "x.pdb", protein)
    with path.open("a") as file:
        file.write("REMARK\n" * 200_000)
    _, err = evaluate(path, "--max-megabytes", 1, code=2)
    assert "holds more than 1 MiB" in err
    assert "--max-megabytes" in err
    assert names(evaluate(path, "--max-megabytes", 2)[0]) == ["x"]


def test_pictures_are_written(protein, evaluate, tmp_path):
    pytest.importorskip("matplotlib")
    write_structure(tmp_path / "in" / "x.pdb", protein)
    write_structure(tmp_path / "in" / "y.pdb", protein[:40])
    told, _ = evaluate(tmp_path / "in", "-o", tmp_path / "out")
    pictures = {"ramachandran.png", "ca_ca.png", "distances_001.png", "distances_002.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == pictures | {
        "metrics.csv",
        "summary.json",
        ".rectiflow",
    }
    assert {p.rsplit("/", 1)[1] for p in told["files"]} >= pictures
    for name in pictures:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


DESIGNER = """
import pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text()
n = sum(line[12:16] == " CA " for line in text.splitlines())
if n == 40:
    sys.exit("no luck with forty")
pathlib.Path(sys.argv[2]).write_text(">1\\n" + "A" * n + "\\n")
"""


def test_a_designer_that_fails_costs_one_row(protein, evaluate, tmp_path, monkeypatch):
    import sys

    import torch
    from rectiflow_protein import designability

    class Line:
        def predict(self, sequences):
            steps = [torch.arange(len(s))[:, None] * torch.tensor([3.8, 0, 0]) for s in sequences]
            return [x + torch.sin(x.flip(-1)) for x in steps]

    monkeypatch.setattr(designability.ESMFold, "from_cache", lambda *a, **k: Line())
    write_structure(tmp_path / "in" / "x.pdb", protein)
    write_structure(tmp_path / "in" / "y.pdb", protein[:40])
    (tmp_path / "design.py").write_text(DESIGNER)
    command = f"{sys.executable} {tmp_path / 'design.py'} {{pdb}} {{fasta}}"
    words = ["--designer-command", command, "--predictor", "esmfold", "--num-sequences", 1]
    told, err = evaluate(tmp_path / "in", *words)
    assert list(told["failures"]) == ["y"]
    assert "y could not be measured in full: the designer failed with exit code 1" in err
    first, second = told["samples"]
    assert first["designable"] == 0
    assert second["designable"] is None
    assert told["summary"]["failed"] == 1
    _, err = evaluate(tmp_path / "in" / "y.pdb", *words, code=2)
    assert "no luck with forty" in err
