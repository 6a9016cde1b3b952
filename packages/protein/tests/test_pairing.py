import pytest
import torch
from rectiflow.spaces import quat_multiply
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.frames import atoms_from_frames, frames_from_backbone
from rectiflow_protein.io import read_structure
from rectiflow_protein.pairing import Pairing
from rectiflow_protein.secondary_structure import HELIX, STRAND, dssp

NO_CB = [0, 1, 2, 4]


@pytest.fixture(scope="module")
def natural():
    """Frames of protein G: a helix on a sheet of four strands, both parallel and antiparallel."""
    chain = max(read_structure(PROTEIN_G).chains().values(), key=len)
    atoms = torch.as_tensor(chain.coords, dtype=torch.float32)
    return frames_from_backbone(*atoms[None, :, :3].unbind(2))


def loosened(frames, seed=0):
    """The same with every residue out of place by what breaks the bonds of a sheet."""
    g = torch.Generator().manual_seed(seed)
    turn = 0.12 * torch.randn(frames["trans"].shape, generator=g)
    turn = torch.cat([torch.ones_like(turn[..., :1]), turn / 2], dim=-1)
    return {
        "trans": frames["trans"] + 0.45 * torch.randn(frames["trans"].shape, generator=g),
        "rot": quat_multiply(frames["rot"], turn / turn.norm(dim=-1, keepdim=True)),
    }


def count(frames, kind):
    return int((dssp(atoms_from_frames(frames)[:, :, NO_CB]) == kind).sum())


def test_a_loosened_sheet_is_drawn_together(natural):
    whole = count(natural, STRAND)
    before, after = [], []
    for seed in range(4):
        loose = loosened(natural, seed)
        drawn = Pairing()(loose, 0.7)
        before.append(count(loose, STRAND))
        after.append(count(drawn, STRAND))
        assert (drawn["trans"] - loose["trans"]).norm(dim=-1).mean() < 0.6
        torch.testing.assert_close(drawn["rot"].norm(dim=-1), torch.ones(1, len(drawn["rot"][0])))
    assert whole >= 20
    assert sum(after) > 1.5 * sum(before)
    assert sum(after) > 0.5 * 4 * whole


def test_it_holds_what_is_right_already(natural):
    drawn = Pairing()(natural, 0.7)
    assert (drawn["trans"] - natural["trans"]).norm(dim=-1).mean() < 0.15
    assert count(drawn, STRAND) >= count(natural, STRAND)
    assert count(drawn, HELIX) >= count(natural, HELIX) - 1


def test_other_times_short_chains_and_far_strands_are_left_alone(natural):
    for t in (0.49, 0.91):
        assert Pairing()(natural, t) is natural
    short = {name: part[:, :6] for name, part in natural.items()}
    assert Pairing()(short, 0.7) is short
    far = {**natural, "trans": 3.0 * natural["trans"]}
    moved = Pairing()(far, 0.7)
    torch.testing.assert_close(moved["trans"], far["trans"])


def test_padding_neither_pulls_nor_moves(natural):
    loose = loosened(natural)
    padded = {
        "trans": torch.nn.functional.pad(loose["trans"], (0, 0, 0, 7)),
        "rot": torch.cat([loose["rot"], loose["rot"][:, :7]], dim=1),
    }
    n = loose["trans"].shape[1]
    mask = (torch.arange(n + 7) < n).float()[None]
    alone, together = Pairing()(loose, 0.6), Pairing()(padded, 0.6, mask)
    for name in alone:
        torch.testing.assert_close(together[name][:, :n], alone[name])
        torch.testing.assert_close(together[name][:, n:], padded[name][:, n:])


def test_it_turns_with_the_chain(natural):
    loose = loosened(natural)
    turn = torch.tensor([0.5, 0.5, -0.5, 0.5])
    move = torch.tensor([10.0, -4.0, 3.0])

    q = turn.expand_as(loose["rot"])
    zero = torch.zeros_like(loose["trans"][..., :1])
    conj = q * torch.tensor([1.0, -1.0, -1.0, -1.0])

    def rotate(x):
        return quat_multiply(quat_multiply(q, torch.cat([zero, x], -1)), conj)[..., 1:]

    there = Pairing()(
        {"trans": rotate(loose["trans"]) + move, "rot": quat_multiply(q, loose["rot"])}, 0.6
    )
    back = rotate(Pairing()(loose, 0.6)["trans"]) + move
    torch.testing.assert_close(there["trans"], back, atol=1e-3, rtol=1e-4)


def test_residues_that_coincide_do_not_break_it(natural):
    heap = {**natural, "trans": torch.zeros_like(natural["trans"])}
    moved = Pairing()(heap, 0.6)
    assert all(part.isfinite().all() for part in moved.values())
