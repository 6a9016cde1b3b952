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
    assert f"rejected or left out 4, each with its reason in {out / 'rejected.csv'}" in captured.out
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


def test_what_is_left_out_is_listed_with_all_its_reasons(tmp_path, capsys):
    from rectiflow_protein.examples import PROTEIN_G
    from rectiflow_protein.io import read_structure

    protein = read_structure(PROTEIN_G)
    folder = tmp_path / "in"
    for i, lost in enumerate(("N", "CA", "C", "O")):
        path = write_structure(folder / f"x{i}.pdb", protein)
        lines = path.read_text().splitlines(keepends=True)
        wanted = [x for x in lines if not (x[22:26] == "  20" and x[12:16].strip() == lost)]
        path.write_text("".join(wanted))
    for name, text in (("a.txt", "x"), ("b.pdb", "x"), ("c.pdb", ""), ("d.pdb", "<html>")):
        (folder / name).write_text(text)
    out = tmp_path / "out"
    words = ["protein", "prepare", str(folder), "-o", str(out), "--min-length", "10"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "rejected or left out 8, each with its reason" in said
    for reason in ("lacks N", "lacks CA", "lacks C", "lacks O"):
        assert f"  {1:>6}  left out: {reason}\n" in said
    for reason in ("its suffix is '.txt'", "it holds no atom", "it is empty", "it is an HTML page"):
        assert reason in said
    assert "left out: lacks CA; A/20 ALA" in (out / "rejected.csv").read_text()


def test_an_assembly_written_as_models_is_no_monomer(tmp_path, capsys):
    from rectiflow_protein.examples import PROTEIN_G

    lines = PROTEIN_G.read_text().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")]
    moved = [f"{x[:30]}{float(x[30:38]) + 40:8.3f}{x[38:]}" for x in atoms]
    text = ["MODEL        1", *atoms, "ENDMDL", "MODEL        2", *moved, "ENDMDL", "END", ""]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "x.pdb1").write_text("\n".join(text))
    words = ["protein", "prepare", str(folder), "--min-length", "10", "-o"]
    assert main([*words, str(tmp_path / "all")]) == 0
    assert PreparedBackbones(tmp_path / "all").table["num_chains"].tolist() == [2]
    assert main([*words, str(tmp_path / "one"), "--max-chains", "1"]) == 2
    assert "an assembly as models" in capsys.readouterr().out


def test_the_bound_of_reading_can_be_raised(structures, tmp_path, capsys):
    (structures / "big.pdb").write_text("REMARK\n" * 200_000)
    words = ["protein", "prepare", str(structures), "--min-length", "10", "-o"]
    assert main([*words, str(tmp_path / "s"), "--max-megabytes", "1"]) == 0
    assert "it holds more than" in capsys.readouterr().out
