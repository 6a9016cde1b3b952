import math

import pytest
import torch
from rectiflow.spaces import Rotations, quat_to_rotmat
from rectiflow_protein.frames import (
    atoms_from_frames,
    backbone_from_frames,
    centre,
    frames_from_backbone,
    place_oxygen,
)
from rectiflow_protein.residues import C_O_BOND, IDEAL_C, IDEAL_N


def random_frames(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    rot = Rotations().prior(shape, generator=g)
    return {"trans": 8 * torch.randn(*shape, 3, generator=g), "rot": rot}


def test_frames_of_ideal_atoms_are_the_frames():
    frames = random_frames(3, 20)
    again = frames_from_backbone(*backbone_from_frames(frames).unbind(-2))
    torch.testing.assert_close(again["trans"], frames["trans"], atol=1e-5, rtol=0)
    same = (again["rot"] * frames["rot"]).sum(-1).abs()
    torch.testing.assert_close(same, torch.ones_like(same), atol=1e-5, rtol=0)
    assert (again["rot"][..., 0] >= 0).all()


def test_local_axes_follow_the_convention():
    identity = {"trans": torch.zeros(1, 3), "rot": torch.tensor([[1.0, 0, 0, 0]])}
    n, ca, c = backbone_from_frames(identity)[0]
    assert n.tolist() == pytest.approx(IDEAL_N)
    assert c.tolist() == pytest.approx(IDEAL_C)
    assert ca.tolist() == [0, 0, 0]
    quarter = {"trans": torch.ones(1, 3), "rot": torch.tensor([[1.0, 0, 0, 1.0]]) / math.sqrt(2)}
    assert backbone_from_frames(quarter)[0, 2].tolist() == pytest.approx([1, 1 + IDEAL_C[0], 1])


def test_atoms_turn_and_shift_with_the_frames():
    frames, g = random_frames(12), random_frames(1, seed=5)
    r = quat_to_rotmat(g["rot"])[0]
    moved = {
        "trans": frames["trans"] @ r.T + g["trans"],
        "rot": Rotations().move(g["rot"].expand(12, 4), torch.zeros(12, 3), 1.0),
    }
    from rectiflow.spaces import quat_multiply

    moved["rot"] = quat_multiply(g["rot"].expand(12, 4), frames["rot"])
    expected = atoms_from_frames(frames) @ r.T + g["trans"]
    torch.testing.assert_close(atoms_from_frames(moved), expected, atol=1e-4, rtol=0)


def test_oxygen_is_bonded_and_respects_the_mask():
    backbone = backbone_from_frames(random_frames(2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    oxygen = place_oxygen(backbone, mask)
    bond = (oxygen - backbone[..., 2, :]).norm(dim=-1)
    torch.testing.assert_close(bond, torch.full_like(bond, C_O_BOND), atol=1e-4, rtol=0)
    alone = place_oxygen(backbone[1, :6])
    torch.testing.assert_close(oxygen[1, :6], alone, atol=1e-6, rtol=0)


def test_centring_counts_real_residues_only():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    done = centre(x, mask)
    torch.testing.assert_close(done[0, :3].mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(done[1], centre(x[1]), atol=1e-6, rtol=0)
