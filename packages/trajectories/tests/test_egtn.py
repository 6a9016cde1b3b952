"""Symmetries of EGTN, and of its form with e3nn's tensor products; their forms of input."""

import itertools

import pytest
import torch
from e3nn import o3
from rectiflow_trajectories.networks import EGTN, TensorEGTN
from rectiflow_trajectories.networks.egtn import PRIORS
from rectiflow_trajectories.networks.graph import centred

N, SEEN, MADE = (4, 3), 5, 6
NOISE = torch.Generator().manual_seed(3)


def rand(*shape, dtype=torch.float64):
    return torch.randn(*shape, generator=NOISE, dtype=dtype)


def told(given=SEEN, dtype=torch.float64, frames=False):
    n = max(N)
    real = torch.arange(n) < torch.tensor(N)[:, None]
    linked = (torch.rand(len(N), n, n, generator=NOISE) < 0.7) & ~torch.eye(n, dtype=torch.bool)
    nodes = rand(len(N), n, *((given + MADE,) if frames else ()), 2, dtype=dtype)
    found = {"nodes": nodes, "edges": rand(len(N), n, n, 3, dtype=dtype)}
    found |= {"linked": linked, "real": real}
    if given:
        found["given"] = rand(len(N), n, given, 3, dtype=dtype) * real[..., None, None]
    return found


def made(network, cond, x, t):
    """Return the velocity, and the reference that it is about."""
    if not network.given:
        return network(x, t, cond), torch.zeros_like(x)
    reference = network.reference(cond)
    return network(x, t, cond | {"reference": reference}), reference


def network_of(given=SEEN, prior="learned", dtype=torch.float64, kind=EGTN, **sizes):
    torch.manual_seed(0)
    sizes = {"hidden": 12, "layers": 2, "time_dim": 8, "prior_layers": 1} | sizes
    return kind(2, 3, given=given, frames=MADE, prior=prior, **sizes).to(dtype)


@pytest.mark.parametrize(
    ("kind", "given", "prior"),
    [(EGTN, 0, "centre"), *((EGTN, SEEN, p) for p in PRIORS),
     (TensorEGTN, 0, "centre"), (TensorEGTN, SEEN, "learned")],
)  # fmt: skip
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_rotations_reflections_and_shifts(kind, given, prior, dtype, tolerance):
    network, cond = network_of(given, prior, dtype, kind), told(given, dtype)
    real = cond["real"][..., None, None].to(dtype)
    x, t = rand(2, max(N), MADE, 3, dtype=dtype) * real, torch.tensor([0.2, 0.9], dtype=dtype)
    v, reference = made(network, cond, x, t)
    assert v.abs().max() > 1e-3
    for mirror in (1, -1):
        turn = mirror * o3.rand_matrix(dtype=dtype)
        shift = rand(len(N), 1, 1, 3, dtype=dtype)  # another for each graph
        moved = cond | ({"given": (cond["given"] @ turn.T + shift) * real} if given else {})
        v_moved, r_moved = made(network, moved, x @ turn.T, t)
        torch.testing.assert_close(v_moved, v @ turn.T, atol=tolerance, rtol=tolerance)
        if given:
            expected = (reference @ turn.T + shift) * real
            torch.testing.assert_close(r_moved, expected, atol=tolerance, rtol=tolerance)


def test_order_of_nodes_and_company_of_graphs():
    network, cond = network_of(), told()
    x, t = rand(2, max(N), MADE, 3), torch.tensor([0.2, 0.9], dtype=torch.float64)
    v, _ = made(network, cond, x, t)
    order = torch.tensor([2, 0, 3, 1])
    turned = {name: value[:, order] for name, value in cond.items()}
    turned |= {name: turned[name][:, :, order] for name in ("edges", "linked")}
    found, _ = made(network, turned, x[:, order], t)
    torch.testing.assert_close(found, v[:, order], atol=1e-10, rtol=1e-10)
    alone = {name: value[1:] for name, value in cond.items()}
    found, _ = made(network, alone, x[1:], t[1:])
    torch.testing.assert_close(found, v[1:], atol=1e-10, rtol=1e-10)
    assert v[1, N[1] :].abs().max() == 0


def test_tensor_products_in_the_plane_and_what_they_share(tmp_path):
    network = network_of(kind=TensorEGTN, prior="velocity", layers=1)
    cond, x = told(), rand(2, max(N), MADE, 3)
    t = torch.tensor([0.2, 0.9], dtype=torch.float64)
    cond["linked"] = torch.ones_like(cond["linked"])  # loops included
    flat = cond | {"given": cond["given"][..., :2]}
    v, _ = made(network, flat, x[..., :2], t)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    found, _ = made(network, flat | {"given": flat["given"] @ turn.T}, x[..., :2] @ turn.T, t)
    torch.testing.assert_close(found, v @ turn.T, atol=1e-10, rtol=1e-10)
    space, _ = made(network, cond, x, t)
    space.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    order = torch.tensor([2, 0, 3, 1])
    turned = {name: value[:, order] for name, value in cond.items()}
    turned |= {name: turned[name][:, :, order] for name in ("edges", "linked")}
    torch.testing.assert_close(made(network, turned, x[:, order], t)[0], space[:, order])
    network.save_pretrained(tmp_path)
    again = TensorEGTN.from_pretrained(tmp_path).double()
    torch.testing.assert_close(made(again, cond, x, t)[0], space, atol=1e-6, rtol=1e-6)
    for sizes, said in (({"hidden": 6}, "a multiple of 4, got 6"), ({"pre_norm": True}, "EGTN's")):
        with pytest.raises(ValueError, match=said):
            network_of(kind=TensorEGTN, **sizes)


def test_what_is_made_without_given_frames_has_no_mean():
    network, cond = network_of(0), told(0)
    x = rand(2, max(N), MADE, 3)
    v = network(x, torch.tensor([0.5, 0.5], dtype=torch.float64), cond)
    torch.testing.assert_close(centred(v, cond["real"]), v)
    shifted = network(x + 7, torch.tensor([0.5, 0.5], dtype=torch.float64), cond)
    torch.testing.assert_close(shifted, v)


def test_constant_velocity_is_a_prior():
    network, cond = network_of(prior="velocity"), told()
    cond["given"] = torch.arange(SEEN).double()[:, None].expand(2, max(N), SEEN, 3)
    expected = torch.arange(SEEN, SEEN + MADE).double()[:, None].expand(max(N), MADE, 3)
    found = network.reference(cond)
    torch.testing.assert_close(found[0], expected)


def test_nodes_in_one_place_have_a_gradient():
    network = network_of(pre_norm=True)
    cond = told(frames=True)
    cond["linked"] = torch.ones_like(cond["linked"])  # loops included
    cond["given"] = torch.zeros_like(cond["given"], requires_grad=True)
    v, _ = made(network, cond, torch.zeros(2, max(N), MADE, 3).double(), torch.zeros(2).double())
    v.square().sum().backward()
    assert cond["given"].grad.isfinite().all()


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({}, 1_889_828),
        ({"given": 0}, 1_418_252),
        ({"node_dim": 30, "edge_dim": 4}, 1_900_324),
        (
            {"node_dim": 2, "edge_dim": 0, "hidden": 64, "layers": 4, "frames": 12, "given": 8},
            364_952,
        ),
    ],
)
def test_published_sizes(sizes, count):
    with torch.device("meta"):
        network = EGTN(**sizes)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"time_dim": 2}, "time_dim must be at least 4, got 2"),
        ({"prior": "none"}, "prior must be one of learned, centre, last, velocity"),
        ({"prior": "velocity", "given": 1}, "needs two given frames"),
    ],
)
def test_unusable_sizes(sizes, said):
    with pytest.raises(ValueError, match=said):
        EGTN(**sizes)


def test_frames_before_and_after_differ():
    """The order of frames matters, and every given frame counts."""
    network, cond = network_of(), told()
    x, t = rand(2, max(N), MADE, 3), torch.tensor([0.2, 0.9], dtype=torch.float64)
    v, _ = made(network, cond, x, t)
    for frame in range(SEEN):
        other = cond | {"given": cond["given"].clone()}
        other["given"][:, :, frame] += 0.1
        assert (made(network, other, x, t)[0] - v).abs().max() > 1e-6
    assert len(list(itertools.chain(network.s_modules, network.t_modules))) == 4
