"""Contacts, symmetry, composition and resampling: what a sample has to be like, it is."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rectiflow_protein.anchors import deal
from rectiflow_protein.composition import HELIX, Composition, ideal_hairpin, ideal_piece
from rectiflow_protein.constraints import Chains
from rectiflow_protein.contacts import Contact, read_contact
from rectiflow_protein.data.synthetic import synthetic_backbone
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.frames import atoms_from_frames, frames_from_backbone, place_oxygen
from rectiflow_protein.io import read_structure, write_structure
from rectiflow_protein.motifbench import read_problems, write_info
from rectiflow_protein.resample import read_resample
from rectiflow_protein.secondary_structure import dssp, letters
from rectiflow_protein.symmetry import APART, Symmetry

CPU = torch.device("cpu")


def chain(length, seed=0):
    """Frames of a made-up chain, in a batch of one."""
    coords = synthetic_backbone(length, torch.Generator().manual_seed(seed))
    return {k: v[None] for k, v in frames_from_backbone(*coords[:, :3].unbind(1)).items()}


def shares(frames):
    atoms = atoms_from_frames(frames)[0]
    found = letters(dssp(atoms[:, [0, 1, 2, 4]]))
    return found.count("H") / len(found), found.count("E") / len(found)


def test_residues_are_dealt_within_their_spans_and_in_every_way():
    seen = {
        tuple(deal(4, [(0, 2), (1, None), (0, 0)], torch.Generator().manual_seed(i)))
        for i in range(60)
    }
    assert seen == {(0, 4, 0), (1, 3, 0), (2, 2, 0)}


def test_a_contact_is_made_and_others_bonds_are_hardly_stretched():
    before = chain(60)
    after = Contact(5, 40, 6.0)(before, 0.5)["trans"][0]
    assert (before["trans"][0, 39] - before["trans"][0, 4]).norm() > 10
    assert (after[39] - after[4]).norm() <= 6.0
    assert after.diff(dim=0).norm(dim=-1).max() < 6.0
    near = Contact(5, 40, 90.0)(before, 0.5)["trans"]
    assert torch.equal(near, before["trans"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("5-40", "not understood"),
        ("40-5:6", "the first before the second"),
        ("5-40:2", "nearer than 3.8"),
    ],
)
def test_contacts_that_cannot_be_are_named(text, told):
    with pytest.raises(ValueError, match=told):
        read_contact(text)
    with pytest.raises(ValueError, match="lies outside the chain, got a chain of 30 residues"):
        read_contact("5-40:6").check(30)


@pytest.mark.parametrize(("symbol", "count"), [("C2", 2), ("C5", 5), ("D3", 6), ("T", 12)])
def test_groups_have_their_copies_which_touch_and_do_not_clash(symbol, count):
    symmetry = Symmetry(symbol)
    assert len(symmetry.rotations) == count
    frames = chain(30)
    out = symmetry.distance(frames["trans"])
    from rectiflow.spaces import quat_to_rotmat

    placed = (frames["trans"][0] + out * symmetry.away).double()
    copies = placed @ quat_to_rotmat(symmetry.rotations).mT
    nearest = torch.cdist(copies[0], copies[1:].flatten(0, 1)).min()
    assert nearest == pytest.approx(APART, abs=1e-3)


def test_larger_groups_are_complete():
    assert len(Symmetry("O").rotations) == 24
    assert len(Symmetry("I").rotations) == 60


@pytest.mark.parametrize("symbol", ["C1", "C63", "D40", "E8", "c3", "C"])
def test_symmetries_that_are_none_are_named(symbol):
    with pytest.raises(ValueError, match="there is no symmetry"):
        Symmetry(symbol)


def test_an_assembly_has_equal_copies_by_name_in_its_file(pipe, tmp_path):
    with pytest.raises(ValueError, match="at most 277 residues in a copy"):
        pipe([300], steps=2, constraints=[Symmetry("I")])
    result = pipe([11, 12], steps=4, constraints=[Symmetry("C3")])
    result.save(tmp_path)
    for sample, file in zip(result.samples, sorted(tmp_path.glob("*.pdb")), strict=True):
        whole = sample.shown
        copies = whole.coords.reshape(3, len(sample.atoms), 4, 3).astype(float)
        turn = np.array([[-0.5, -math.sqrt(0.75), 0], [math.sqrt(0.75), -0.5, 0], [0, 0, 1]])
        np.testing.assert_allclose(copies[0] @ turn.T, copies[1], atol=1e-4)
        np.testing.assert_allclose(copies[1] @ turn.T, copies[2], atol=1e-4)
        assert sample.told["copies_apart"] >= APART - 1e-2
        assert list(read_structure(file).chains()) == ["A", "B", "C"]
    alone = pipe([11], steps=4, constraints=[Symmetry("C3")]).samples[0]
    np.testing.assert_allclose(alone.atoms, result.samples[0].atoms, atol=5e-3)


def test_ideal_pieces_are_what_they_are_called():
    helix = ideal_piece(12, HELIX)
    assert letters(dssp(torch.cat([helix, place_oxygen(helix).unsqueeze(1)], 1))).count("H") >= 9
    pair = ideal_hairpin(7)
    with_oxygen = torch.cat([pair, place_oxygen(pair).unsqueeze(1)], 1)
    chains = torch.tensor([0] * 7 + [1] * 7)
    assert letters(dssp(with_oxygen, chain_index=chains)).count("E") == 10


def test_a_composition_is_laid_into_predictions_until_the_chain_has_formed():
    wanted = Composition(0.3, 0.3)
    prediction = chain(60, seed=3)
    hold = wanted.on(Chains([60], [0], 7, CPU))
    helix, strand = shares(hold(prediction, 0.5))
    assert helix == pytest.approx(0.3, abs=0.1)
    assert strand == pytest.approx(0.3, abs=0.15)
    assert hold(prediction, 0.9) is prediction
    layouts = [wanted.layout(60, torch.Generator().manual_seed(i)) for i in range(8)]
    rows = [torch.cat([piece.rows for piece in layout]) for layout in layouts]
    assert all(len(r.unique()) == len(r) and r.max() < 60 for r in rows)
    assert len({tuple(r.tolist()) for r in rows}) > 4


@pytest.mark.parametrize(
    ("given", "told"),
    [((1.2, None), "lies in"), ((0.6, 0.6), "too little to turn"), ((-0.1, 0.2), "lies in")],
)
def test_compositions_that_cannot_be_are_named(given, told):
    with pytest.raises(ValueError, match=told):
        Composition(*given)
    with pytest.raises(ValueError, match="does not fit, got chains of 12 residues"):
        Composition(0.4, 0.4).check(12)


def test_what_misses_is_tried_again_and_the_nearest_kept(pipe):
    wanted = Composition(helix=0.3, tolerance=0.0)  # which an untrained network does not meet
    (sample,) = pipe([20], steps=2, constraints=[wanted], tries=3).samples
    assert sample.told["tried"] <= 3
    singles = [wanted.miss(pipe([20], steps=2, constraints=[wanted]).samples[0])]
    assert wanted.miss(sample) <= singles[0]
    (met,) = pipe([20], steps=2, constraints=[Contact(2, 9, 50.0)], tries=3).samples
    assert "tried" not in met.told


def test_a_stretch_is_made_anew_and_the_rest_stays_bit_for_bit(pipe):
    whole = read_structure(PROTEIN_G)
    both = replace(
        whole,
        **{
            name: np.concatenate([getattr(whole, name), getattr(whole, name)])
            for name in ("coords", "aatype", "residue_index", "insertion_codes")
        },
        chain_ids=np.repeat(np.array(["A", "B"]), len(whole)),
    )
    wanted = read_resample(both, "B10-14,B56", "two.pdb")
    samples = pipe([56, 56], steps=4, constraints=[wanted]).samples
    new = [len(whole) + i for i in (9, 10, 11, 12, 13, 55)]
    stays = np.setdiff1d(np.arange(len(both)), new)
    for sample in samples:
        assert np.array_equal(sample.shown.coords[stays], both.coords[stays])
        assert np.array_equal(sample.shown.aatype[stays], both.aatype[stays])
        assert (sample.shown.coords[new] != both.coords[new]).all()
        assert sample.told["resampled"] == ["B/10", "B/11", "B/12", "B/13", "B/14", "B/56"]
    assert np.abs(samples[0].shown.coords[new] - samples[1].shown.coords[new]).max() > 0.1
    with pytest.raises(ValueError, match="has 56 residues, got a length of 30"):
        pipe([30], steps=2, constraints=[wanted])


@pytest.mark.parametrize(
    ("residues", "told"),
    [
        ("20-x", "not understood"),
        ("50-60", "no residue A57, got 1 to 56"),
        ("35-20", "go down"),
        ("20-30,25", "overlap"),
        ("C3-5", "got 'C3-5'; expected one of them before"),
        ("1-56", "nothing of chain 'A' would stay"),
    ],
)
def test_residues_that_cannot_be_resampled_are_named(residues, told):
    with pytest.raises(ValueError, match=told):
        read_resample(read_structure(PROTEIN_G), residues, "protein_g.pdb")


def test_problems_are_read_in_the_forms_of_the_field(tmp_path):
    whole = read_structure(PROTEIN_G)
    write_structure(tmp_path / "1PGA.pdb", whole)
    segments = [
        replace(whole[a:b], chain_ids=np.full(b - a, c)) for a, b, c in ((22, 30, "A"), (4, 5, "B"))
    ]
    alone = replace(
        segments[0],
        **{
            name: np.concatenate([getattr(s, name) for s in segments])
            for name in ("coords", "aatype", "residue_index", "insertion_codes", "chain_ids")
        },
    )
    table = tmp_path / "test_cases.csv"
    table.write_text(",pdb_id,motif_residues,redesign_idcs,length,group\n1,1PGA,A23-30;A5,,60,2\n")
    (problem,) = read_problems(table, tmp_path)
    assert (problem.name, problem.lengths, problem.letters) == ("01_1PGA", (60, 60), ("A", "B"))
    write_structure(tmp_path / "01_1PGA.pdb", alone)
    (same,) = read_problems(table, tmp_path)
    np.testing.assert_allclose(same.motif.coords, problem.motif.coords, atol=1e-3)
    assert problem.placement([3, 4, 5, 6, 7, 8, 9, 10, 60], 60) == "2/A/49/B"
    table.write_text('target,length,contig\n1PGA,40-50,"10-20,A23-30,5-40"\n')
    (other,) = read_problems(table, tmp_path)
    assert other.lengths == (40, 50)
    assert 40 <= other.draw_length(torch.Generator().manual_seed(0)) <= 50
    write_info(tmp_path / "i.csv", [{"sample_num": 0, "motif_placements": "2/A/49/B"}])
    assert (tmp_path / "i.csv").read_text() == "sample_num,motif_placements\n0,2/A/49/B\n"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no list of motif problems"):
        read_problems(table, tmp_path)
    table.write_text("problem,length,contig\n09_XXXX,60,5/A1/5\n")
    with pytest.raises(ValueError, match="no structure of problem 09_XXXX"):
        read_problems(table, tmp_path)
