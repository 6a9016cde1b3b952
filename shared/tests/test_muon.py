"""Muon: orthogonal steps for matrices inside, AdamW's own for all else."""

from __future__ import annotations

import copy

import pytest
import torch
from rectiflow.training import muon
from rectiflow.training.muon import Muon, orthogonal
from torch import nn


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 96),
                         nn.GELU(), nn.Linear(96, 64), nn.GELU(), nn.Linear(64, 1))  # fmt: skip


def steps(network, optimizer, number, first=0):
    for i in range(first, first + number):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(32, 3, generator=generator)
        loss = (network(x) - x.prod(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("shape", [(64, 100), (64, 200), (200, 64)])
def test_a_matrix_is_made_orthogonal_in_its_own_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T
    diagonal = found.diagonal()
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.25
    torch.testing.assert_close(found, torch.diag(diagonal), atol=1e-4, rtol=0)
    torch.testing.assert_close(orthogonal(1e-6 * matrix), orthogonal(matrix), atol=1e-4, rtol=0)


def test_each_kind_of_parameter_moves_as_the_published_optimisers_do(network):
    twin = copy.deepcopy(network)
    optimizer = Muon(network.parameters(), lr=2e-3, weight_decay=0.1)
    inside = [p for p in twin.parameters() if p.ndim == 2 and min(p.shape) >= 64]
    others = [p for p in twin.parameters() if not any(p is q for q in inside)]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, len(others)]
    theirs = [
        torch.optim.Muon(inside, lr=2e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.1),
    ]
    before = [p.detach().clone() for p in network.parameters()]
    for i in range(3):  # both see the same gradients
        steps(network, optimizer, 1, i)
        for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
            other.grad = mine.grad.clone()
        for each in theirs:
            each.step()
    for old, mine, other in zip(before, network.parameters(), twin.parameters(), strict=True):
        if not any(other is p for p in inside):
            torch.testing.assert_close(mine, other, atol=1e-7, rtol=1e-5)
            continue
        moved, theirs_moved = ((p.detach() - old).flatten() for p in (mine, other))
        assert torch.cosine_similarity(moved, theirs_moved, dim=0) > 0.95  # theirs is in bfloat16
        assert moved.norm() / theirs_moved.norm() == pytest.approx(1, abs=0.05)
        assert 0.2 < moved.square().mean().sqrt() / (3 * 2e-3 * 0.2) < 1.5


def test_a_run_goes_on_from_its_state(network):
    twin = copy.deepcopy(network)
    whole = Muon(network.parameters(), lr=2e-3)
    first = Muon(twin.parameters(), lr=2e-3)
    steps(network, whole, 8)
    steps(twin, first, 4)
    second = Muon(twin.parameters(), lr=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(twin, second, 4, first=4)
    for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_closure_is_called_first_and_its_value_returned(network):
    optimizer = Muon(network.parameters())

    def closure():
        loss = network(torch.ones(4, 3)).square().mean()
        loss.backward()
        return loss

    before = network[3].weight.detach().clone()
    assert optimizer.step(closure) > 0
    assert not torch.equal(before, network[3].weight)


def test_what_cannot_be_is_refused(network, monkeypatch):
    for wrong in ({"lr": -1.0}, {"momentum": 1.0}, {"smallest": 0}, {"sweeps": 0}):
        with pytest.raises(ValueError, match=r"must"):
            Muon(network.parameters(), **wrong)
    monkeypatch.setattr(muon, "DTensor", nn.Parameter)
    with pytest.raises(ValueError, match="optimizer=adamw with strategy=fsdp"):
        Muon(network.parameters())
