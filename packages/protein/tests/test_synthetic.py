from __future__ import annotations

import pytest
import torch
from rectiflow.rectify import PairStore
from rectiflow_protein.data import PreparedBackbones
from rectiflow_protein.data.synthetic import (
    backbone_from_torsions,
    prepare_synthetic,
    synthetic_backbone,
    synthetic_chains,
    synthetic_pairs,
)
from rectiflow_protein.metrics import backbone_metrics, torsions


@pytest.mark.parametrize(("phi", "psi"), [(-63.0, -42.0), (-120.0, 130.0), (60.0, 40.0)])
def test_a_chain_has_the_torsions_it_was_built_from(phi, psi):
    angles = torch.deg2rad(torch.tensor([[phi, psi]] * 9, dtype=torch.float64))
    found = torsions(backbone_from_torsions(*angles.unbind(-1)))
    torch.testing.assert_close(found.phi[1:], angles[1:, 0])
    torch.testing.assert_close(found.psi[:-1], angles[:-1, 1])
    assert found.omega[:-1].abs().allclose(torch.tensor(torch.pi, dtype=torch.float64))


def test_an_ideal_helix_rises_one_and_a_half_angstrom_a_residue():
    angles = torch.deg2rad(torch.tensor([[-63.0, -42.0]] * 37, dtype=torch.float64))
    coords = backbone_from_torsions(*angles.unbind(-1))
    # Ten turns of 3.6 residues.
    assert float((coords[36, 1] - coords[0, 1]).norm()) / 36 == pytest.approx(1.5, abs=0.05)
    assert float(backbone_metrics(coords)["helix"]) > 0.9


@pytest.mark.parametrize("length", [2, 3, 30, 70])
def test_chains_are_physical(length):
    coords = synthetic_backbone(length, torch.Generator().manual_seed(length))
    assert coords.shape == (length, 4, 3)
    assert coords.dtype == torch.float32
    assert coords[:, 1].mean(0).abs().max() < 1e-3
    found = backbone_metrics(coords)
    assert float(found["ca_ca_strict"]) == 1.0
    assert float(found["peptide_valid"]) == 1.0
    assert float(found["close_contacts"]) == 0.0
    if length > 3:
        assert float(found["ramachandran"]) > 0.9


def test_chains_are_the_same_every_time_and_differ_from_one_another():
    first, again = (synthetic_chains(3, 20, 30, seed=5) for _ in range(2))
    assert [len(chain) for chain in first] == [20, 25, 30]
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    other = synthetic_chains(3, 20, 30, seed=6)
    assert not first[0].equal(other[0])
    assert not first[0].equal(first[1][:20])


@pytest.mark.parametrize(("num", "low", "high"), [(0, 5, 9), (1, 1, 9), (1, 9, 5)])
def test_impossible_chains_are_refused(num, low, high):
    with pytest.raises(ValueError, match="synthetic chains need num >= 1 and 2 <= min_length"):
        synthetic_chains(num, low, high)


def test_one_residue_is_no_chain():
    with pytest.raises(ValueError, match="a chain has at least 2 residues, got length=1"):
        synthetic_backbone(1, torch.Generator())


def test_prepared_chains_can_be_trained_on(tmp_path):
    folder = prepare_synthetic(tmp_path / "made", num=6, min_length=10, max_length=14)
    prepared = PreparedBackbones(folder)
    assert len(prepared) == 6
    assert len(prepared.rows("train")) + len(prepared.rows("valid")) == 6
    assert len(set(prepared.table["cluster"])) == 6
    # Made again in the same place, it is what is there.
    assert prepare_synthetic(folder, num=6, min_length=10, max_length=14) == folder


def test_pairs_are_noise_and_chain(tmp_path):
    store = PairStore(synthetic_pairs(tmp_path / "pairs", num=3, min_length=10, max_length=12))
    assert store.lengths("x1.trans") == [10, 11, 12]
    pair = store[2]
    chain = synthetic_chains(3, 10, 12)[2]
    torch.testing.assert_close(pair.x1["trans"], chain[:, 1])
    assert pair.x0["rot"].norm(dim=-1).allclose(torch.ones(12))
    assert float(pair.x0["trans"].std()) > 4
