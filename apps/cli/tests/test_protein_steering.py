"""``rectiflow protein scaffold``, ``resample``, and ``sample`` under constraints."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from rectiflow_cli.main import main
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure, write_structure
from rectiflow_protein.metrics import superpose
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.weights import official_config, to_official


@pytest.fixture
def run(narrow, tmp_path, capsys):
    """Run a verb; returns exit code and output."""

    def call(verb: str, out: str, *words: str):
        given = ["--weights", narrow, "--steps", "4", "--device", "cpu", "-o", str(tmp_path / out)]
        code = main(["protein", verb, *words, *given, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if code == 0 else captured.err

    return call


@pytest.fixture
def sample(run):
    return partial(run, "sample")


def test_the_motif_stands_in_every_scaffold(run, tmp_path):
    whole = read_structure(PROTEIN_G)
    text = f"{PROTEIN_G}:A3-9,A21"
    words = ("--motif", text, "--length", "60", "--num", "3")
    code, told = run("scaffold", "s", *words)
    assert code == 0, told
    wanted = np.concatenate([whole.coords[2:9], whole.coords[20:21]])[:, :3].reshape(-1, 3)
    places = set()
    for row in told["samples"]:
        made = read_structure(tmp_path / "s" / row["files"][0])
        rows = np.array(row["motif"]) - 1
        mine = torch.from_numpy(made.coords[rows][:, :3].reshape(-1, 3))
        off = superpose(mine, torch.from_numpy(wanted)) - torch.from_numpy(wanted)
        assert off.norm(dim=-1).max() < 0.1
        places.add(tuple(row["motif"]))
    assert len(places) > 1
    assert text in told["settings"]["constraints"][0]
    assert run("scaffold", "s", *words)[1]["kept"] == 3
    code, error = run("scaffold", "s", "--motif", f"{PROTEIN_G}:A3-9", *words[2:])
    assert code == 2
    assert "other settings" in error


def test_a_contig_sets_the_lengths(run):
    words = ("--motif", str(PROTEIN_G), "--contig", "2-9/A3-9/1/A11-12/4", "--num", "4")
    code, told = run("scaffold", "s", *words)
    assert code == 0, told
    for row in told["samples"]:
        motif, length = row["motif"], row["length"]
        assert 3 <= motif[0] <= 10
        assert motif[7] - motif[6] == 2
        assert length - motif[-1] == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--motif", "{g}:Z1-3", "--length", "60"], "no chain 'Z'"),
        (["--motif", "{g}:A900-903", "--length", "60"], "no residue A900"),
        (["--motif", "{g}:A3-30", "--lengths", "20"], "does not fit, got a chain of 20 residues"),
        (["--motif", "{g}:A3-9,A5", "--length", "60"], "A/5 of"),
        (["--motif", "{g}:three", "--length", "60"], "not understood"),
        (["--motif", "{g}:A3-9"], "leaves the length open"),
        (["--motif", "nowhere.pdb:A1-3", "--length", "60"], "nowhere.pdb"),
        (["--motif", "{nan}:A3-9", "--length", "60"], "nan.pdb"),
        (["--motif", "{g}:A3-9", "--length", "60", "--contact", "5-70:6"], "outside the chain"),
        (["--problems", "list.csv"], "needs --structures"),
    ],
)
def test_motifs_that_cannot_be_are_the_users_error(run, words, told, tmp_path):
    nan = tmp_path / "nan.pdb"
    lines = PROTEIN_G.read_text().splitlines()
    atoms = [line[:30] + "     nan" * 3 + line[54:] for line in lines if line.startswith("ATOM")]
    nan.write_text("\n".join(atoms))
    code, error = run("scaffold", "s", *(word.format(g=PROTEIN_G, nan=nan) for word in words))
    assert code == 2, error
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_problems_come_back_as_motifbench_reads_them(run, tmp_path):
    write_structure(tmp_path / "1pga.pdb", read_structure(PROTEIN_G))
    table = tmp_path / "test_cases.csv"
    table.write_text("pdb_id,motif_residues,redesign_idcs,length,group\n1PGA,A23-30;A40,,40,2\n")
    words = ("--problems", str(table), "--structures", str(tmp_path), "--num", "2")
    code, told = run("scaffold", "s", *words)
    assert code == 0, told
    folder = tmp_path / "s" / "01_1PGA"
    assert sorted(p.name for p in folder.iterdir()) == [
        "01_1PGA_0.pdb",
        "01_1PGA_1.pdb",
        "scaffold_info.csv",
    ]
    lines = (folder / "scaffold_info.csv").read_text().splitlines()
    assert lines[0] == "sample_num,motif_placements"
    for number, line in enumerate(lines[1:]):
        index, placement = line.split(",")
        assert int(index) == number
        parts = placement.split("/")
        assert [part for part in parts if not part.isdecimal()] == ["A", "B"]
        assert sum(int(part) for part in parts if part.isdecimal()) == 40 - 9
    assert run("scaffold", "s", *words)[1]["kept"] == 2


def test_a_stretch_of_a_structure_is_made_anew(run, tmp_path):
    code, told = run("resample", "loops", str(PROTEIN_G), "--residues", "10-14", "--num", "2")
    assert code == 0, told
    before = read_structure(PROTEIN_G)
    stays = np.r_[0:9, 14:56]
    for row in told["samples"]:
        after = read_structure(tmp_path / "loops" / row["files"][0])
        assert np.array_equal(after.coords[stays], before.coords[stays])
        assert np.array_equal(after.residue_index, before.residue_index)
        assert after.sequence[9:14] == "AAAAA"
        assert row["resampled"][0] == "A/10"
    code, error = run("resample", "bad", str(PROTEIN_G), "--residues", "50-60")
    assert (code, "no residue A57" in error) == (2, True)


def test_assemblies_name_their_chains_and_what_cannot_be_is_refused(sample, tmp_path):
    code, told = sample("c3", "--length", "12", "--symmetry", "C3")
    assert code == 0, told
    (row,) = told["samples"]
    assert row["copies"] == 3
    assert row["copies_apart"] > 4.9
    assert list(read_structure(tmp_path / "c3" / row["files"][0]).chains()) == ["A", "B", "C"]
    for words, said in (
        (["--length", "900", "--symmetry", "I"], "at most 277 residues in a copy"),
        (["--length", "40", "--symmetry", "X3"], "there is no symmetry 'X3'"),
        (["--length", "30", "--contact", "5-40:6"], "outside the chain"),
        (["--length", "30", "--contact", "5-20"], "not understood"),
        (["--length", "30", "--helix", "0.7", "--strand", "0.7"], "too little to turn"),
    ):
        code, error = sample("bad", *words)
        assert (code, said in error) == (2, True), error
        assert len(error.strip().splitlines()) == 1


def test_contacts_and_shares_are_told_with_their_tries(sample):
    words = ("--length", "30", "--contact", "3-20:8", "--helix", "0.3", "--tries", "2")
    code, told = sample("s", *words)
    assert code == 0, told
    (row,) = told["samples"]
    assert row["contact_3_20"] > 0
    assert row.get("tried", 2) == 2
    assert told["settings"]["tries"] == 2
    assert ["Contact" in text for text in told["settings"]["constraints"]] == [False, True]


def test_temperature_repulsion_and_pairing_change_the_samples_and_are_told(sample, tmp_path):
    plain = sample("plain", "--length", "30")[1]
    warm = sample("warm", "--length", "30", "--temperature", "0.5")[1]
    apart = sample("apart", "--length", "30", "--repulsion")[1]
    paired = sample("paired", "--length", "30", "--pairing", "--repulsion")[1]
    coords = [
        read_structure(tmp_path / name / told["samples"][0]["files"][0]).coords
        for name, told in (("plain", plain), ("warm", warm), ("apart", apart))
    ]
    assert np.abs(coords[0] - coords[1]).max() > 0.1
    assert np.abs(coords[0] - coords[2]).max() > 0.1
    assert "temperature=0.5" in warm["settings"]["solver"]
    assert "Repulsion" in apart["settings"]["constraints"][0]
    told = [text.split("(")[0] for text in paired["settings"]["constraints"]]
    assert told == ["Pairing", "Repulsion"]
    assert plain["settings"]["constraints"] == []
    for words in (["--temperature", "2"], ["--temperature", "0.5", "--solver", "midpoint"]):
        code, error = sample("bad", "--length", "30", *words)
        assert code == 2
        assert "temperature" in error


def test_a_motif_works_with_the_authors_form_of_weights(narrow, tmp_path, capsys):
    network = ReQFlowNetwork.from_pretrained(Path(narrow))
    official = tmp_path / "official"
    official.mkdir()
    torch.save({"state_dict": to_official(network)}, official / "qflow.ckpt")
    config = OmegaConf.create({"model": official_config(network.sizes)})
    OmegaConf.save(config, official / "config.yaml")
    words = ["--motif", f"{PROTEIN_G}:A1-5", "--steps", "3", "--lengths", "20"]
    given = [
        "--weights",
        str(official / "qflow.ckpt"),
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "s"),
        "--json",
    ]
    assert main(["protein", "scaffold", *words, *given]) == 0, capsys.readouterr().err
    (row,) = json.loads(capsys.readouterr().out)["samples"]
    assert len(row["motif"]) == 5
