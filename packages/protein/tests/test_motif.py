"""A motif stands in a sample as it is given, wherever the chain around it goes."""

import math

import numpy as np
import pytest
import torch
from rectiflow_protein.constraints import Chains
from rectiflow_protein.frames import backbone_from_frames
from rectiflow_protein.io import Backbone, write_structure
from rectiflow_protein.metrics import superpose
from rectiflow_protein.motif import RISE, Motif, read_contig, read_motif
from rectiflow_protein.residues import CA_CA_DISTANCE


def helix(n, first=1, chain="A", shift=0.0, sequence=None):
    """Ideal alpha helix: 100 degrees and 1.5 A a residue."""
    radii, angles, rises = (1.55, 2.29, 1.68, 2.0), (-28.0, 0.0, 27.0, 20.0), (-0.9, 0.0, 1.1, 2.2)
    turn = np.deg2rad(100.0 * np.arange(n)[:, None] + np.array(angles))
    rise = 1.5 * np.arange(n)[:, None] + np.array(rises)
    coords = np.stack([radii * np.cos(turn), radii * np.sin(turn), rise + shift], -1)
    return Backbone.from_coords(coords, sequence=sequence, first_residue=first, chain_id=chain)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "two_chains.pdb"
    one, two = helix(12, sequence="MKTAYIAKQRQI"), helix(6, 50, "B", shift=30.0)
    both = Backbone(
        *(
            np.concatenate([getattr(one, name), getattr(two, name)])
            for name in ("coords", "aatype", "residue_index", "insertion_codes", "chain_ids")
        )
    )
    write_structure(path, both)
    return path


def test_a_motif_is_read_by_the_numbers_of_the_file(file):
    motif = read_motif(f"{file}:B52,A3-7")
    assert [len(segment) for segment in motif.segments] == [1, 5]
    assert motif.sequence == "ATAYIA"
    whole = helix(12).coords
    np.testing.assert_allclose(motif.segments[1].coords, whole[2:7], atol=1e-3)
    distance = np.linalg.norm(motif.coords[1, 1] - motif.coords[0, 1])
    (gap,) = motif.gaps()
    assert (gap - 1) * RISE < distance - 1.1 * CA_CA_DISTANCE <= gap * RISE


@pytest.mark.parametrize(
    ("segments", "told"),
    [
        ("C1-3", "no chain 'C', got chains 'A', 'B'"),
        ("A10-14", "no residue A13"),
        ("A7-3", "goes down"),
        ("A3-7,A5", "names residue A/5 of .* twice"),
        ("10-14", "not understood"),
        ("", "not understood"),
    ],
)
def test_what_the_file_does_not_have_is_named(file, segments, told):
    with pytest.raises(ValueError, match=told):
        read_motif(f"{file}:{segments}")


def test_a_chain_break_is_no_segment(tmp_path):
    broken = helix(8)
    broken.coords[4:] += 9.0
    write_structure(tmp_path / "broken.pdb", broken)
    with pytest.raises(ValueError, match="chain break after A/4"):
        read_motif(f"{tmp_path / 'broken.pdb'}:A1-8")


def test_places_leave_room_for_the_gaps_and_are_all_drawn():
    motif = Motif([helix(3), helix(2, shift=10.0)])
    shortest = len(motif) + sum(motif.gaps())
    seen = set()
    for seed in range(200):
        rows = motif.place(shortest + 2, torch.Generator().manual_seed(seed)).tolist()
        assert rows[1] - rows[0] == rows[2] - rows[1] == rows[4] - rows[3] == 1
        assert rows[3] - rows[2] - 1 >= motif.gaps()[0]
        assert rows[0] >= 0
        assert rows[-1] < shortest + 2
        seen.add(tuple(rows))
    assert len(seen) == math.comb(4, 2)  # two free residues among three places
    rows = motif.place(shortest, torch.Generator())
    assert len(rows) == len(motif)
    with pytest.raises(ValueError, match=f"at least {shortest}"):
        motif.place(shortest - 1, torch.Generator())


@pytest.mark.parametrize("lengths", [[24, 24], [24, 23, 30]])
def test_samples_hold_the_motif(pipe, lengths):
    whole = helix(12, sequence="MKTAYIAKQRQI")
    motif = Motif([whole[2:7], whole[9:12]])
    result = pipe(lengths, steps=6, seed=1, constraints=[motif])
    for sample, length in zip(result.samples, lengths, strict=True):
        assert len(sample.atoms) == length
        rows = list(sample.motif)
        mine = torch.from_numpy(sample.atoms[rows][:, [0, 1, 2, 4]]).flatten(0, 1)
        target = torch.from_numpy(motif.coords).flatten(0, 1)
        assert (superpose(mine, target) - target).norm(dim=-1).max() < 1e-3
        assert "".join(sample.sequence[row] for row in rows) == motif.sequence
        assert sample.told["motif"] == [row + 1 for row in rows]
        assert 0 <= sample.told["junctions_valid"] <= 1


def test_what_hangs_on_a_motif_keeps_its_bond_to_it(pipe):
    g = torch.Generator().manual_seed(0)
    predicted = {"trans": 5 * torch.randn(1, 9, 3, generator=g)}
    predicted["rot"] = torch.nn.functional.normalize(torch.randn(1, 9, 4, generator=g), dim=-1)
    motif = Motif([helix(4)], spans=[(2, 2), (3, 3)])
    changed = motif.on(Chains([9], [0], 0, torch.device("cpu")))(predicted, 0.5)
    for tail in (slice(0, 3), slice(5, 9)):  # with the end of the motif that it hangs on
        before, after = (
            backbone_from_frames(f)[0, tail].flatten(0, 1) for f in (predicted, changed)
        )
        torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before))


def test_a_bridge_between_two_pieces_has_bonds_of_their_length():
    one, two = helix(4), helix(4, first=30, shift=14.0)
    motif = Motif([one, two], spans=[(0, 0), (5, 5), (0, 0)])
    g = torch.Generator().manual_seed(1)
    predicted = {"trans": 3.8 * torch.arange(13.0)[None, :, None] * torch.tensor([0.0, 0.0, 1.0])}
    predicted["rot"] = torch.nn.functional.normalize(torch.randn(1, 13, 4, generator=g), dim=-1)
    changed = motif.on(Chains([13], [0], 0, torch.device("cpu")))(predicted, 0.5)
    step = changed["trans"][0].diff(dim=0).norm(dim=-1)
    assert step.min() > 3.3
    assert step.max() < 4.3


def test_a_contig_says_how_many_residues_stand_around(file):
    assert read_contig("5-15/A3-7/0/B52") == ([(5, 15), (0, 0), (0, 0)], ["A3-7", "B52"])
    motif = read_motif(str(file), "2-4,A3-7,10")
    lengths = {motif.draw_length(torch.Generator().manual_seed(i)) for i in range(40)}
    assert lengths == {17, 18, 19}
    assert motif.place(18, torch.Generator()).tolist() == [3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="expected a length of at most 19"):
        motif.check(20)
    with pytest.raises(ValueError, match="names no residues"):
        read_contig("5-15/10")
    with pytest.raises(ValueError, match="at most 1 residues between two of its segments"):
        read_motif(str(file), "A3-7/1/B52").check(40)
    with pytest.raises(ValueError, match="leaves the length open"):
        Motif([helix(3)]).draw_length(torch.Generator())


def test_a_motif_in_a_sample_does_not_depend_on_the_batch(pipe):
    motif = Motif([helix(5)])
    together = pipe([20, 19, 20], steps=4, seed=2, constraints=[motif]).samples
    (alone,) = pipe([19], steps=4, seed=2, indices=[1], constraints=[motif]).samples
    assert together[1].motif == alone.motif
    np.testing.assert_allclose(together[1].atoms, alone.atoms, atol=5e-3)
    plain = pipe([19], steps=4, seed=2, indices=[1]).samples[0]
    assert np.abs(plain.atoms - alone.atoms).max() > 0.1


def test_saved_samples_carry_the_residues_of_the_motif(pipe, tmp_path):
    from rectiflow_protein.io import read_structure

    motif = Motif([helix(4, sequence="WYKH")])
    result = pipe([12], steps=3, constraints=[motif])
    (path,) = result.save(tmp_path)
    written = read_structure(path)
    (sample,) = result.samples
    assert written.sequence == sample.sequence
    assert written.sequence.count("A") == 8
    assert f'"motif": [\n        {sample.motif[0] + 1}' in (tmp_path / "result.json").read_text()
