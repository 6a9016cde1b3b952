from __future__ import annotations

import json

import pytest
import torch
from rectiflow_protein.io import read_structure
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.validation import LOGGED, SampleValidation

TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ReQFlowNetwork(TINY)


def test_metrics_structures_and_pictures(network, tmp_path):
    found = SampleValidation([10, 12], steps=2)(network, 30, tmp_path)
    assert set(found) == {"broken", *LOGGED}
    assert found["broken"] == 0.0
    folder = tmp_path / "samples" / "step_0000030"
    lengths = [len(read_structure(path)) for path in sorted(folder.glob("*.pdb"))]
    assert lengths == [10, 12]
    assert json.loads((folder / "result.json").read_text())["settings"]["step"] == 30
    pictures = {path.name for path in folder.glob("*.png")}
    assert pictures == {"ramachandran.png", "ca_ca.png", "distances.png"}
    assert [path.name for path in folder.glob(".*")] == [".rectiflow"]


def test_validations_start_from_the_same_noise(network, tmp_path):
    validation = SampleValidation([10], steps=2, pictures=False)
    first, second = (validation(network, step, tmp_path) for step in (1, 2))
    assert first == second
    other = SampleValidation([10], steps=2, seed=1, pictures=False)(network, 3, tmp_path)
    assert other != first
    assert not list(tmp_path.rglob("*.png"))


def test_a_network_that_ran_away_is_counted_and_does_not_stop_the_training(network, tmp_path):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    assert SampleValidation([10], steps=2)(network, 1, tmp_path) == {"broken": 1.0}
    assert not (tmp_path / "samples").exists()


@pytest.mark.parametrize(("lengths", "steps"), [([], 5), ([1], 5), ([10], 0)])
def test_impossible_validations_are_refused(lengths, steps):
    with pytest.raises(ValueError, match="validation needs lengths of at least 2"):
        SampleValidation(lengths, steps=steps)
