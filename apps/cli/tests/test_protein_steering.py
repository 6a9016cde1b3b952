"""``rectiflow protein sample`` with a motif, a temperature and repulsion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from rectiflow_cli.main import main
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure
from rectiflow_protein.metrics import superpose
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.weights import official_config, to_official


@pytest.fixture
def sample(narrow, tmp_path, capsys):
    """Run the command; returns exit code and output."""

    def run(out: str, *words: str):
        given = ["--weights", narrow, "--steps", "4", "--device", "cpu", "-o", str(tmp_path / out)]
        code = main(["protein", "sample", *words, *given, "--json"])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if code == 0 else captured.err

    return run


def test_the_motif_stands_in_every_sample(sample, tmp_path):
    whole = read_structure(PROTEIN_G)
    chain, first = whole.chain_ids[0], int(whole.residue_index[0])
    text = f"{PROTEIN_G}:{chain}{first + 2}-{first + 8},{chain}{first + 20}"
    code, told = sample("s", "--length", "60", "--num", "3", "--motif", text)
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
    assert told["settings"]["motif"] == text
    again = sample("s", "--length", "60", "--num", "3", "--motif", text)[1]
    assert again["kept"] == 3
    code, error = sample("s", "--length", "60", "--num", "3")
    assert code == 2
    assert "other settings" in error


@pytest.mark.parametrize(
    ("motif", "length", "told"),
    [
        ("Z1-3", "60", "no chain 'Z'"),
        ("A900-903", "60", "no residue A900"),
        ("A3-30", "20", "does not fit, got a chain of 20 residues for 28"),
        ("three", "60", "not understood"),
    ],
)
def test_motifs_that_cannot_be_are_the_users_error(sample, motif, length, told, tmp_path):
    code, error = sample("s", "--length", length, "--motif", f"{PROTEIN_G}:{motif}")
    assert code == 2
    assert told in error
    assert not (tmp_path / "s").exists()
    code, error = sample("s", "--length", "60", "--motif", "nowhere.pdb:A1-3")
    assert (code, "nowhere.pdb" in error) == (2, True)


def test_temperature_and_repulsion_change_the_samples_and_are_told(sample, tmp_path):
    plain = sample("plain", "--length", "30")[1]
    warm = sample("warm", "--length", "30", "--temperature", "0.5")[1]
    apart = sample("apart", "--length", "30", "--repulsion")[1]
    coords = [
        read_structure(tmp_path / name / told["samples"][0]["files"][0]).coords
        for name, told in (("plain", plain), ("warm", warm), ("apart", apart))
    ]
    assert np.abs(coords[0] - coords[1]).max() > 0.1
    assert np.abs(coords[0] - coords[2]).max() > 0.1
    assert "temperature=0.5" in warm["settings"]["solver"]
    assert "Repulsion" in apart["settings"]["corrections"][0]
    assert plain["settings"]["corrections"] == []
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
    whole = read_structure(PROTEIN_G)
    chain, first = whole.chain_ids[0], int(whole.residue_index[0])
    words = ["--motif", f"{PROTEIN_G}:{chain}{first}-{first + 4}", "--steps", "3", "--length", "20"]
    given = [
        "--weights",
        str(official / "qflow.ckpt"),
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "s"),
        "--json",
    ]
    assert main(["protein", "sample", *words, *given]) == 0, capsys.readouterr().err
    (row,) = json.loads(capsys.readouterr().out)["samples"]
    assert len(row["motif"]) == 5
