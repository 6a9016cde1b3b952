"""Deep conjugate directions: the operator, its invariants, falling back, what training gains."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from rectiflow_pde.conjugate import (
    DirectionObjective,
    EnergyObjective,
    draw_solutions,
    gradients,
    load_directions,
    network_directions,
    solve,
)
from rectiflow_pde.networks.directions import DirectionNetwork
from rectiflow_pde.solvers.poisson import Poisson, cholesky_directions, incomplete_cholesky
from scipy.sparse.linalg import spsolve


@pytest.fixture
def scene():
    """A box with a disc in it, the left side walled and the rest open."""
    y, x = torch.meshgrid(torch.arange(20), torch.arange(24), indexing="ij")
    wall = (y - 10) ** 2 + (x - 9) ** 2 < 16
    wall[:, 0] = True
    return Poisson(~wall, wall)


def side(poisson, seed=0):
    b = torch.randn(poisson.fluid.shape, generator=torch.Generator().manual_seed(seed)).double()
    return b * poisson.fluid


def test_the_operator_is_the_matrix_without_one(scene):
    x = side(scene)
    assert np.allclose(scene(x)[scene.fluid], scene.matrix() @ x[scene.fluid].numpy())
    matrix = scene.matrix().toarray()
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > 0
    assert matrix.diagonal().max() == 4


@pytest.mark.parametrize("propose", ["gradients", "cholesky", "network"])
def test_solutions_are_right(scene, propose):
    b = side(scene)
    direction = {
        "gradients": gradients,
        "cholesky": cholesky_directions(scene),
        "network": network_directions(DirectionNetwork(), scene),
    }[propose]
    found = solve(scene, b, direction, tolerance=1e-10)
    true = spsolve(scene.matrix().tocsc(), b[scene.fluid].numpy())
    assert found.converged
    assert np.allclose(found.x[scene.fluid], true, atol=1e-8)
    assert found.calls == (0 if propose == "gradients" else found.steps)


def test_with_the_residual_it_is_conjugate_gradients(scene):
    from scipy.sparse.linalg import cg

    b, seen = side(scene), []
    matrix, right = scene.matrix(), b[scene.fluid].numpy()
    cg(matrix, right, rtol=1e-8, callback=lambda x: seen.append(x.copy()))
    mine = []
    solve(scene, b, memory=1, hook=lambda x, _: mine.append(x[scene.fluid].numpy()))
    for ours, theirs in list(zip(mine, seen, strict=False))[:20]:
        assert np.allclose(ours, theirs, atol=1e-9)


def test_the_error_never_grows_whatever_is_proposed(scene):
    b, draw = side(scene), torch.Generator().manual_seed(1)
    true = torch.zeros_like(b)
    true[scene.fluid] = torch.from_numpy(spsolve(scene.matrix().tocsc(), b[scene.fluid].numpy()))
    energy, directions = [], []

    def hook(x, d):
        energy.append(float(((x - true) * scene(x - true)).sum()))
        directions.append(d)

    def random(r):
        d = torch.randn(r.shape, generator=draw, dtype=r.dtype) * scene.fluid
        return d * (d * r).sum().sign()

    found = solve(scene, b, random, hook=hook, tolerance=1e-8)
    energy = [float((true * scene(true)).sum()), *energy]
    assert all(later <= now * (1 + 1e-9) + 1e-13 for now, later in pairwise(energy))
    assert found.fell_back
    assert found.calls == 50
    assert found.refused == 0
    assert found.converged
    for i in range(2, 12):
        for j in (i - 1, i - 2):
            a, c = directions[i], directions[j]
            cosine = (a * scene(c)).sum() / ((a * scene(a)).sum() * (c * scene(c)).sum()).sqrt()
            assert abs(float(cosine)) < 1e-9


@pytest.mark.parametrize("bad", [lambda r: r * torch.nan, lambda r: 0 * r, lambda r: -r])
def test_bad_proposals_leave_conjugate_gradients(scene, bad):
    b = side(scene)
    found, plain = solve(scene, b, bad), solve(scene, b)
    assert found.converged
    assert abs(found.steps - plain.steps) <= 2
    assert found.refused > 0


def test_the_shipped_network_takes_fewer_steps_than_cholesky(scene):
    """Also where it was not trained: in other scenes and at other sizes."""
    network = load_directions()
    for poisson in (scene, Poisson(torch.ones(96, 80, dtype=torch.bool))):
        b = side(poisson)
        steps = {
            name: solve(poisson, b, direction).steps
            for name, direction in (
                ("gradients", gradients),
                ("cholesky", cholesky_directions(poisson)),
                ("network", network_directions(network, poisson)),
            )
        }
        assert steps["network"] < steps["cholesky"] < steps["gradients"], steps
    assert steps["network"] < steps["gradients"] / 10


def test_regions_without_an_opening_are_refused():
    fluid = torch.ones(6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="1 of 1 regions of fluid touch nothing open"):
        Poisson(fluid, closed=True)
    with pytest.raises(ValueError, match=r"of shape \(6, 6\), got \(5, 6\)"):
        solve(Poisson(fluid), torch.zeros(5, 6))
    still = solve(Poisson(fluid), torch.zeros(6, 6).double())
    assert still.converged
    assert still.steps == 0


def test_the_incomplete_factor_matches_where_the_matrix_is_not_zero(scene):
    matrix = scene.matrix()
    lower = incomplete_cholesky(matrix)
    product = (lower @ lower.T).toarray()
    there = matrix.toarray() != 0
    assert np.allclose(product[there], matrix.toarray()[there], atol=1e-12)


def test_the_network_is_homogeneous_and_takes_any_size():
    torch.manual_seed(0)
    network = DirectionNetwork()
    torch.nn.init.normal_(network.end.weight)
    r, fluid = torch.randn(2, 13, 22), torch.ones(2, 13, 22)
    fluid[:, :, :3] = 0
    found = network(r, fluid)
    assert torch.allclose(network(10 * r, fluid), 10 * found, rtol=1e-4, atol=1e-4)
    assert (found[:, :, :3] == 0).all()


@pytest.mark.parametrize("kind", [DirectionObjective, EnergyObjective])
def test_training_lowers_the_loss(kind):
    torch.manual_seed(0)
    poisson, draw = Poisson(torch.ones(16, 16, dtype=torch.bool)), torch.Generator().manual_seed(0)
    objective = kind(DirectionNetwork())
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    e = draw_solutions(poisson, 8, draw)
    batch = {"e": e, "b": poisson(e), "poisson": poisson}
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(objective(batch, draw)["loss"])
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_the_loss_of_a_solver_that_knows_is_nothing():
    poisson, draw = Poisson(torch.ones(8, 8, dtype=torch.bool)), torch.Generator().manual_seed(0)
    e = draw_solutions(poisson, 3, draw, low=1.0)
    batch = {"e": e, "b": poisson(e), "poisson": poisson}

    def knows(r, fluid):
        return 7 * e

    for kind in (DirectionObjective, EnergyObjective):
        objective = kind(torch.nn.Identity())
        objective.network.forward = knows
        assert objective(batch, draw)["loss"] < 1e-5
