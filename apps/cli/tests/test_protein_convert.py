from __future__ import annotations

import json

import pytest
import torch
from rectiflow.storage.pretrained import weights_hash
from rectiflow_cli.main import main
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

TINY = ReQFlowConfig(
    *(32, 16, 16, 16, 8, 22, 8, 2, 2, 4),
    tfmr_heads=2,
    tfmr_layers=1,
    blocks=2,
)


@pytest.fixture
def network(tmp_path):
    made = ReQFlowNetwork(TINY)
    made.save_pretrained(tmp_path / "ours")
    return made


def test_there_and_back_is_the_same_network(network, tmp_path, capsys):
    official, back = tmp_path / "official", tmp_path / "back"
    words = ["protein", "convert", str(tmp_path / "ours"), "-o", str(official)]
    assert main([*words, "--to", "official"]) == 0
    assert "wrote" in capsys.readouterr().out
    state = torch.load(official / "reqflow.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("model.") for name in state)
    assert main(["protein", "convert", str(official), "-o", str(back), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    described = told["networks"]["network"]
    assert described["sizes"] == vars(TINY)
    assert described["weights_hash"] == weights_hash(network)
    assert described["parameters"] == sum(p.numel() for p in network.parameters())
    assert "apache-2.0" in told["licence"]
    loaded = ReQFlowNetwork.from_pretrained(back)
    assert weights_hash(loaded) == weights_hash(network)
    card = json.loads((back / "config.json").read_text())["card"]
    assert "no licence file" in card["licence"]


def test_the_text_names_sizes_hash_and_licence(network, tmp_path, capsys):
    words = ["protein", "convert", str(tmp_path / "ours"), "-o", str(tmp_path / "o")]
    assert main([*words, "--to", "official"]) == 0
    text = capsys.readouterr().out
    assert "c_s 32, c_z 16" in text
    assert f"hash {weights_hash(network)}" in text
    assert "licence: the model card" in text


def test_what_is_ours_already_is_told_so(network, tmp_path, capsys):
    words = ["protein", "convert", str(tmp_path / "ours"), "-o", str(tmp_path / "x")]
    assert main(words) == 2
    assert "is in our form already; expected the authors' checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_damaged_checkpoint_is_the_users(tmp_path, capsys):
    path = tmp_path / "bad.ckpt"
    path.write_bytes(b"no checkpoint")
    assert main(["protein", "convert", str(path), "-o", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err
    assert "bad.ckpt" in err
    assert len(err.splitlines()) == 1
