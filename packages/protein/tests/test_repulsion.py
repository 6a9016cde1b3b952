import pytest
import torch
from rectiflow_protein.metrics import ca_clashes
from rectiflow_protein.repulsion import Repulsion


def crossing(n=12):
    """Two straight strands of one chain that run through each other."""
    line = 3.8 * torch.arange(n, dtype=torch.float32)
    one = torch.stack([line, torch.zeros(n), torch.zeros(n)], -1)
    other = torch.stack([torch.full((n,), 20.0), line - 20.0, torch.full((n,), 0.3)], -1)
    return torch.cat([one, other])[None]


def frames(trans):
    rot = torch.zeros(*trans.shape[:-1], 4)
    rot[..., 0] = 1.0
    return {"trans": trans, "rot": rot}


def test_crossing_strands_are_pushed_apart_and_stay_whole():
    before = crossing()
    moved = Repulsion()(frames(before), 0.6)
    after = moved["trans"]
    assert int(ca_clashes(before, cutoff=3.5, separation=3)) > 0
    assert int(ca_clashes(after, cutoff=3.5, separation=3)) == 0
    bonds = (after[0, 1:12] - after[0, :11]).norm(dim=-1)
    assert (bonds - 3.8).abs().max() < 0.6
    assert torch.equal(moved["rot"], frames(before)["rot"])
    torch.testing.assert_close(
        after.mean(1), before.mean(1), atol=0.05, rtol=0
    )  # pushes balance, save at ends


def test_a_natural_helix_and_other_times_are_left_alone():
    angle = torch.deg2rad(100.0 * torch.arange(20))
    helix = torch.stack([2.3 * angle.cos(), 2.3 * angle.sin(), 1.5 * torch.arange(20.0)], -1)[None]
    assert torch.equal(Repulsion()(frames(helix), 0.6)["trans"], helix)
    for t in (0.39, 0.96):
        assert torch.equal(Repulsion()(frames(crossing()), t)["trans"], crossing())


def test_padding_pushes_nothing_and_is_not_pushed():
    chain = crossing()
    padded = torch.cat([chain, torch.zeros(1, 6, 3)], dim=1)
    mask = torch.cat([torch.ones(1, 24), torch.zeros(1, 6)], dim=1)
    alone = Repulsion()(frames(chain), 0.5)["trans"]
    together = Repulsion()(frames(padded), 0.5, mask)["trans"]
    torch.testing.assert_close(together[:, :24], alone)
    assert torch.equal(together[:, 24:], padded[:, 24:])


@pytest.mark.parametrize("distance", [0.5, 0.0])
def test_points_that_coincide_do_not_break_it(distance):
    chain = crossing()
    chain[0, 20] = chain[0, 3] + distance
    assert Repulsion()(frames(chain), 0.5)["trans"].isfinite().all()
