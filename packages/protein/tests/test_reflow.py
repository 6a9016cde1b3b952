import math

import numpy as np
import pytest
import torch
from rectiflow.rectify import Mixed, Pair, PairStore, generate_pairs
from rectiflow.rectify.pair_data import Pairs
from rectiflow_protein.data.batching import collate
from rectiflow_protein.data.datamodule import BackbonePairs
from rectiflow_protein.data.synthetic import backbone_from_torsions
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.flow import ExponentialSchedule, FrameEuler
from rectiflow_protein.frames import frames_from_backbone
from rectiflow_protein.io import Backbone, read_structure
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.objective import BackboneObjective
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.reflow import (
    DesignabilityFilter,
    GeometricFilter,
    inverted_pair_sampler,
    pair_example,
    pair_sampler,
)
from rectiflow_protein.sampling import draw_noise

TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return BackbonePipeline(ReQFlowNetwork(TINY))


def stored(folder):
    """Return stored pairs as training examples."""
    store = PairStore(folder)
    return Pairs(store, range(len(store)), pair_example)


def helix(n=24):
    """Return a chain of ideal alpha helix."""
    return backbone_from_torsions(
        torch.full((n,), math.radians(-63)), torch.full((n,), math.radians(-42))
    )


def pair_of(coords, index=0):
    frames = frames_from_backbone(*(coords[:, k].float() for k in range(3)))
    return Pair(index=index, x0=draw_noise(len(coords), 0, index), x1=frames)


def test_pairs_hold_the_noise_and_what_it_became(pipe, tmp_path):
    sample = pair_sampler(pipe, [8, 11], steps=3, seed=5)
    generate_pairs(sample, tmp_path, num=5, batch=2, seed=5, progress=False)
    store = PairStore(tmp_path)
    assert store.lengths("x1.trans") == [8, 11, 8, 11, 8]
    for i in range(5):
        pair, noise = store[i], draw_noise([8, 11][i % 2], 5, i)
        assert torch.equal(pair.x0["trans"], noise["trans"])
        assert torch.equal(pair.x0["rot"], noise["rot"])
        (made,) = pipe([8 if i % 2 == 0 else 11], steps=3, seed=5, indices=[i]).samples
        torch.testing.assert_close(pair.x1["trans"], made.frames["trans"], atol=1e-3, rtol=0)


def test_pairs_train_with_their_own_noise(pipe, tmp_path):
    sample = pair_sampler(pipe, [8, 9], steps=2, seed=0)
    generate_pairs(sample, tmp_path, num=4, batch=4, seed=0, progress=False)
    data = stored(tmp_path)
    batch = collate([data[i] for i in range(4)])
    assert batch["x0.trans"].shape == (4, 9, 3)
    assert data.lengths("x1.trans") == [8, 9, 8, 9]
    assert batch["x0.rot"][0, 8].tolist() == [1, 0, 0, 0]
    terms = BackboneObjective(pipe.network)(batch, torch.Generator().manual_seed(0))
    assert torch.isfinite(terms["loss"])


def test_geometric_filter_keeps_proteins_and_names_what_is_wrong():
    keep = GeometricFilter(max_relative_gyration=2.0)
    good = keep(pair_of(helix()))
    assert good.kept
    assert good.scores["helix"] > 0.6
    assert GeometricFilter(max_relative_gyration=0.5)(pair_of(helix())).reason == "not compact"
    sheets = GeometricFilter(max_relative_gyration=2.0, min_strand=0.1)
    assert sheets(pair_of(helix())).reason == "too little strand"
    chain = max(read_structure(PROTEIN_G).chains().values(), key=len)
    assert sheets(pair_of(torch.as_tensor(chain.coords[:, :3], dtype=torch.float32))).kept
    broken = helix()
    broken[12:] += 9
    assert keep(pair_of(broken)).reason == "broken chain"
    noise = pair_of(helix())
    random = Pair(index=0, x0=noise.x0, x1=draw_noise(24, 1, 1))
    assert not keep(random).kept


class Perfect:
    """A designer and predictor that return the backbone they were given."""

    def design(self, backbone: Backbone, num_sequences, *, temperature, seed):
        self.ca = torch.as_tensor(backbone.coords[:, 1])
        return ["A" * len(backbone)] * num_sequences

    def predict(self, sequences):
        return [self.ca.clone() for _ in sequences]


class Poor(Perfect):
    def predict(self, sequences):
        g = torch.Generator().manual_seed(0)
        return [20 * torch.randn(self.ca.shape, generator=g) for _ in sequences]


def test_designability_filter():
    tool = Perfect()
    assert DesignabilityFilter(tool, tool, num_sequences=2)(pair_of(helix())).kept
    tool = Poor()
    verdict = DesignabilityFilter(tool, tool, num_sequences=2)(pair_of(helix()))
    assert not verdict.kept
    assert verdict.reason == "not designable"
    assert verdict.scores["sc_rmsd"] > 2


def test_inverted_chains_flow_back_and_mix(pipe, tmp_path):
    from rectiflow_protein.data.dataset import BackboneDataset

    coords = helix(10).float()
    number = torch.arange(10)
    record = {
        "coords": coords,
        "aatype": 0 * number,
        "residue_index": number,
        "chain_index": 0 * number,
    }
    chains = BackboneDataset([record] * 2)
    sample = inverted_pair_sampler(pipe, chains, steps=4)
    generate_pairs(sample, tmp_path / "real", num=2, batch=1, seed=0, progress=False)
    generate_pairs(
        pair_sampler(pipe, [10], steps=2, seed=0),
        tmp_path / "made",
        num=4,
        batch=4,
        seed=0,
        progress=False,
    )
    real, made = (stored(tmp_path / k) for k in ("real", "made"))
    # An untrained network predicts its input: the velocity is zero and noise equals data.
    torch.testing.assert_close(real[0]["x0.trans"], real[0]["x1.trans"], atol=1e-3, rtol=0)
    mixed = Mixed(real, made, 0.25)
    assert {tuple(sorted(mixed[i])) for i in range(len(mixed))} == {tuple(sorted(made[0]))}


def test_no_pair_left_is_an_error(pipe, tmp_path):
    sample = pair_sampler(pipe, [8], steps=2, seed=0)
    impossible = GeometricFilter(min_valid=1.1)
    generate_pairs(sample, tmp_path, num=3, batch=3, seed=0, keep=impossible, progress=False)
    with pytest.raises(ValueError, match=r"no pair to train on.*broken chain"):
        BackbonePairs(tmp_path)


def test_chains_are_inverted_the_same_alone_and_together():
    from rectiflow_protein.data.dataset import BackboneDataset

    torch.manual_seed(1)
    network = ReQFlowNetwork(TINY)
    for weight in network.parameters():  # an untrained one predicts its input
        torch.nn.init.normal_(weight, std=0.1)
    pipe = BackbonePipeline(network)
    records = [
        {
            "coords": helix(n).float(),
            "aatype": torch.zeros(n, dtype=torch.int64),
            "residue_index": torch.arange(n),
            "chain_index": torch.zeros(n, dtype=torch.int64),
        }
        for n in (9, 14, 11)
    ]
    sample = inverted_pair_sampler(pipe, BackboneDataset(records), steps=3)
    together = sample([0, 1, 2])
    for i, pair in enumerate(together):
        (alone,) = sample([i])
        assert pair.index == i
        assert len(pair.x0["trans"]) == [9, 14, 11][i]
        assert not torch.allclose(pair.x0["trans"], pair.x1["trans"])
        for name in ("trans", "rot"):
            torch.testing.assert_close(pair.x0[name], alone.x0[name], atol=1e-3, rtol=1e-3)


def test_the_teachers_settings_decide_the_pairs(pipe):
    plain = pair_sampler(pipe, [9], steps=3, seed=0)([0])[0]
    slower = pair_sampler(pipe, [9], steps=3, seed=0, solver=FrameEuler(ExponentialSchedule(1.0)))
    assert np.isfinite(slower([0])[0].x1["trans"].numpy()).all()
    assert plain.index == 0
