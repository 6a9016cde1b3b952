from __future__ import annotations

import json

import pytest
from rectiflow_cli.main import main
from rectiflow_protein.data import PreparedBackbones
from rectiflow_protein.data.synthetic import synthetic_chains
from rectiflow_protein.io import Backbone, write_structure

LETTERS = ("ACDEFGHIKL" * 3, "MNPQRSTVWY" * 3, "LKIHGFEDCA" * 3)


@pytest.fixture
def structures(tmp_path):
    """Three good chains as PDB and mmCIF, and files that cannot be used."""
    folder = tmp_path / "structures"
    for i, coords in enumerate(synthetic_chains(3, 20, 30)):
        backbone = Backbone.from_coords(coords, sequence=LETTERS[i][: len(coords)])
        write_structure(folder / f"good{i}{('.pdb', '.cif')[i % 2]}", backbone)
    short = Backbone.from_coords(synthetic_chains(1, 5, 5)[0])
    write_structure(folder / "short.pdb", short)
    (folder / "empty.pdb").write_text("")
    (folder / "notes.txt").write_text("no structure")
    (folder / "cut.cif").write_text((folder / "good1.cif").read_text()[:400])
    return folder


def test_accepted_and_rejected_are_counted(structures, tmp_path, capsys):
    out = tmp_path / "shards"
    words = ["protein", "prepare", str(structures), "-o", str(out), "--min-length", "10"]
    assert main([*words, "--splits", "0.6,0.4,0"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("accepted 3 chains of 7 inputs (75 residues, 3 clusters, ")
    assert f"rejected 4, each with its reason in {out / 'rejected.csv'}" in captured.out
    assert f"rectiflow protein train data.dir={out}" in captured.out
    assert captured.err == ""
    assert len(PreparedBackbones(out)) == 3
    rejected = (out / "rejected.csv").read_text()
    for name in ("short.pdb", "empty.pdb", "notes.txt", "cut.cif"):
        assert name in rejected


def test_json_is_one_document(structures, tmp_path, capsys):
    words = ["protein", "prepare", str(structures), "-o", str(tmp_path / "s"), "--json"]
    assert main([*words, "--min-length", "25", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["inputs"], found["rejected"]) == (2, 7, 5)
    assert found["rejected_csv"] == str(tmp_path / "s" / "rejected.csv")
    assert sum(found["splits"].values()) == 2


def test_nothing_accepted_is_the_users(structures, tmp_path, capsys):
    out = tmp_path / "none"
    assert main(["protein", "prepare", str(structures), "-o", str(out), "--published"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("accepted 0 chains")
    assert f"no chain of 7 inputs was accepted; {out / 'rejected.csv'} has" in captured.err
    assert len(captured.err.splitlines()) == 1


def test_other_settings_do_not_mix(structures, tmp_path, capsys):
    words = ["protein", "prepare", str(structures), "-o", str(tmp_path / "s"), "--min-length"]
    assert main([*words, "10"]) == 0
    assert main([*words, "10"]) == 0  # done already: the same report
    assert main([*words, "12"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_archive_will_do(tmp_path, capsys):
    from rectiflow_protein.data.synthetic import prepare_synthetic

    prepare_synthetic(tmp_path / "made", num=3, min_length=12, max_length=16)
    words = ["protein", "prepare", str(tmp_path / "made.npz"), "-o", str(tmp_path / "again")]
    assert main([*words, "--min-length", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accepted"] == 3


def test_a_folder_that_is_absent_is_the_users(tmp_path, capsys):
    assert main(["protein", "prepare", str(tmp_path / "no"), "-o", str(tmp_path / "s")]) == 2
    assert "expected a folder of structure files" in capsys.readouterr().err
