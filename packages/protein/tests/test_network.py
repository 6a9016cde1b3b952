import pytest
import torch
from e3nn import o3
from rectiflow.spaces import Rotations, quat_multiply, rotmat_to_quat
from rectiflow.storage.pretrained import CheckpointError
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


def live_network(seed=0, sizes=TINY):
    """Make a network whose zero-initialised layers are drawn too, so that every path is live."""
    torch.manual_seed(seed)
    network = ReQFlowNetwork(sizes).eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6 / parameter.shape[-1] ** 0.5, generator=g)
    return network


def inputs(b=2, n=14, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x = {
        "trans": 8 * torch.randn(b, n, 3, generator=g, dtype=dtype),
        "rot": Rotations().prior((b, n), generator=g, dtype=dtype),
    }
    given = {
        "res_idx": torch.arange(n, dtype=dtype).expand(b, n),
        "trans_sc": 8 * torch.randn(b, n, 3, generator=g, dtype=dtype),
    }
    return x, torch.rand(b, generator=g).to(dtype), given


def test_an_untrained_network_returns_its_input():
    x, t, given = inputs()
    out = ReQFlowNetwork(TINY)(x, t, **given)
    torch.testing.assert_close(out["trans"], x["trans"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out["rot"], x["rot"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_predictions_turn_and_shift_with_the_chain(seed):
    network = live_network(seed)
    x, t, given = inputs(seed=seed)
    torch.manual_seed(seed)
    r, shift = o3.rand_matrix(), torch.tensor([3.0, -20.0, 11.0])
    q = rotmat_to_quat(r).expand_as(x["rot"])
    moved = {"trans": x["trans"] @ r.T + shift, "rot": quat_multiply(q, x["rot"])}
    with torch.no_grad():
        out = network(x, t, **given)
        turned = network(moved, t, **{**given, "trans_sc": given["trans_sc"] @ r.T + shift})
    torch.testing.assert_close(turned["trans"], out["trans"] @ r.T + shift, atol=2e-3, rtol=0)
    torch.testing.assert_close(turned["rot"], quat_multiply(q, out["rot"]), atol=2e-4, rtol=0)


def test_float64_equivariance_is_exact():
    network = live_network(1).double()
    x, t, given = inputs(dtype=torch.float64)
    network.edge_dtype = torch.float64
    torch.manual_seed(0)
    r, shift = o3.rand_matrix().double(), torch.tensor([3.0, -20.0, 11.0], dtype=torch.float64)
    # Distances on a bin edge could fall either way; leave the distogram out of this comparison.
    given.pop("trans_sc")
    q = rotmat_to_quat(r).expand_as(x["rot"])
    moved = {"trans": x["trans"] @ r.T + shift, "rot": quat_multiply(q, x["rot"])}
    with torch.no_grad():
        out, turned = network(x, t, **given), network(moved, t, **given)
    error = (turned["trans"] - out["trans"] @ r.T - shift).abs().max()
    assert error < 1e-4  # e3nn's matrix is orthogonal to float32


def test_a_padded_chain_equals_the_unpadded_one():
    network = live_network()
    x, t, given = inputs(b=1, n=11)
    with torch.no_grad():
        alone = network(x, t, **given)
        pad = {k: torch.cat([v, v[:, :4] * 3], dim=1) for k, v in (x | given).items()}
        mask = torch.tensor([[1.0] * 11 + [0.0] * 4])
        padded = network(
            {"trans": pad["trans"], "rot": pad["rot"]},
            t,
            res_idx=torch.arange(15.0)[None],
            trans_sc=pad["trans_sc"],
            res_mask=mask,
        )
    torch.testing.assert_close(padded["trans"][:, :11], alone["trans"], atol=2e-4, rtol=0)
    torch.testing.assert_close(padded["rot"][:, :11], alone["rot"], atol=2e-5, rtol=0)


def test_given_residues_stay_where_they_are():
    x, t, given = inputs()
    moving = torch.ones(2, 14)
    moving[:, 3:8] = 0
    with torch.no_grad():
        out = live_network()(x, t, **given, diffuse_mask=moving)
    torch.testing.assert_close(out["trans"][:, 3:8], x["trans"][:, 3:8], atol=1e-5, rtol=0)
    assert (out["trans"][:, 9:] - x["trans"][:, 9:]).norm(dim=-1).min() > 1e-3


def test_bfloat16_edges_stay_close():
    network, (x, t, given) = live_network(), inputs(n=30)
    with torch.no_grad():
        full = network(x, t, **given)["trans"]
        network.edge_dtype = torch.bfloat16
        low = network(x, t, **given)["trans"]
    assert 0 < (full - low).norm(dim=-1).mean() < 0.5


def test_save_and_load(tmp_path):
    network, (x, t, given) = live_network(), inputs()
    network.save_pretrained(tmp_path, data="none")
    again = ReQFlowNetwork.from_pretrained(tmp_path).eval()
    assert again.sizes == TINY
    with torch.no_grad():
        assert torch.equal(again(x, t, **given)["trans"], network(x, t, **given)["trans"])
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ReQFlowNetwork.from_pretrained(tmp_path)
