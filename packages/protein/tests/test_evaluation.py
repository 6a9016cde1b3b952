import csv
import json
import math

import numpy as np
import pytest
import torch
from rectiflow_protein.data.synthetic import backbone_from_torsions
from rectiflow_protein.evaluation import Known, evaluate
from rectiflow_protein.io import Backbone


def chain(seed, n=30):
    torsions = torch.full((n,), math.radians(-63)), torch.full((n,), math.radians(-42))
    coords = backbone_from_torsions(*torsions).float().numpy()
    shift = np.random.default_rng(seed).normal(0, 0.01, coords.shape).astype(np.float32)
    return Backbone.from_coords(coords + shift, name=f"chain_{seed}")


def test_table_and_summary(tmp_path):
    seen = []
    found = evaluate([chain(0), chain(1), chain(2, 40)], progress=lambda *x: seen.append(x))
    assert [row["name"] for row in found.rows] == ["chain_0", "chain_1", "chain_2"]
    assert found.summary["count"] == 3
    assert found.summary["helix"] > 0.6
    assert found.summary["ca_ca_valid"] == 1.0
    assert 0.9 < found.summary["clusters_tm_0.5"] * 3 < 1.1  # all are one helix
    assert seen[-1] == (3, 3)
    table, summary = found.save(tmp_path)
    with table.open() as file:
        assert len(list(csv.DictReader(file))) == 3
    assert json.loads(summary.read_text())["count"] == 3


def test_designability_columns():
    class Tool:
        def design(self, backbone, num_sequences, *, temperature, seed):
            self.ca = torch.as_tensor(backbone.coords[:, 1])
            return ["A" * len(backbone)] * num_sequences

        def predict(self, sequences):
            return [self.ca.clone() for _ in sequences]

    tool = Tool()
    found = evaluate([chain(0)], designer=tool, predictor=tool, num_sequences=2)
    assert found.rows[0]["designable"] == 1
    assert found.rows[0]["sc_rmsd"] < 1e-3
    assert found.summary["designable"] == 1.0


def test_a_tool_that_fails_costs_its_own_row_alone(tmp_path):
    class Tool:
        def design(self, backbone, num_sequences, *, temperature, seed):
            if backbone.name == "chain_1":
                raise RuntimeError("out of luck")
            self.ca = torch.as_tensor(backbone.coords[:, 1])
            return ["A" * len(backbone)] * num_sequences

        def predict(self, sequences):
            return [self.ca.clone() for _ in sequences]

    tool = Tool()
    chains = [chain(0), chain(1), chain(2)]
    found = evaluate(chains, designer=tool, predictor=tool, num_sequences=1)
    assert found.failures == {"chain_1": "out of luck"}
    assert [row["designable"] == 1 for row in found.rows] == [True, False, True]
    assert math.isnan(found.rows[1]["sc_rmsd"])
    assert found.rows[1]["helix"] > 0.6
    assert (found.summary["failed"], found.summary["designable"]) == (1, 1)
    table, _ = found.save(tmp_path)
    assert len(table.read_text().splitlines()) == 4
    with pytest.raises(RuntimeError, match="out of luck"):
        evaluate([chain(1)], designer=tool, predictor=tool)


def test_nothing_to_evaluate_and_half_a_tool():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate([])
    with pytest.raises(ValueError, match="needs both tools"):
        evaluate([chain(0)], designer=object())


def test_novelty_is_averaged_over_the_backbones_that_were_found():
    found = evaluate([chain(0), chain(1)], diversity=False, novelty={"chain_1": 0.7, "other": 0.1})
    assert math.isnan(found.rows[0]["novelty_tm"])
    assert found.summary["novelty_tm"] == pytest.approx(0.7)


def test_samples_are_held_against_training_chains_and_so_are_held_out_ones(tmp_path):
    from rectiflow_protein.data.synthetic import prepare_synthetic

    folder = prepare_synthetic(tmp_path / "shards", num=30, min_length=24, max_length=40, seed=1)
    known = Known.read(folder, 30, 40)
    assert 20 <= len(known.train) < 30
    assert known.held_out
    assert all(30 <= len(held) <= 40 for held in known.held_out)
    copy = Backbone.from_coords(np.repeat(known.train[3].numpy()[:, None], 4, 1), name="copy")
    assert known.nearest(copy) == pytest.approx(1, abs=1e-3)
    found = evaluate([chain(0)], known=Known(known.train, [chain(1)]), diversity=False)
    assert 0 < found.rows[0]["nearest_tm"] <= 1
    assert found.summary["nearest_tm"] == pytest.approx(
        found.summary["nearest_tm_held_out"], abs=0.1
    )
