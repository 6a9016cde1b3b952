"""Points on surfaces: uniform, reproducible, on their faces; few that cover many."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rectiflow_shape.geometry import (
    Mesh,
    farthest_points,
    near_surface,
    normalise,
    surface_points,
)

PRISM = Mesh(
    [[0, 0, 0], [4, 0, 0], [0, 3, 0], [0, 0, 9], [4, 0, 9], [0, 3, 9]],
    [[0, 2, 1], [3, 4, 5], [0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [2, 0, 3], [2, 3, 5]],
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_points_are_uniform_by_area_and_lie_on_their_faces():
    points, normals = surface_points(PRISM, 20_000, generator())
    assert torch.allclose(normals.norm(dim=1), torch.ones(20_000).double())
    shares = {(0, 0, -1): 6, (0, 0, 1): 6, (0, -1, 0): 36, (-1, 0, 0): 27, (0.6, 0.8, 0): 45}
    for normal, area in shares.items():
        on = (normals @ torch.tensor(normal).double()) > 0.999
        assert float(on.double().mean()) == pytest.approx(area / 120, abs=0.012)
    assert points.amin() >= 0
    slope = normals[:, 0] > 0.5
    torch.testing.assert_close(
        points[slope, 0] / 4 + points[slope, 1] / 3, torch.ones(int(slope.sum())).double()
    )
    again, _ = surface_points(PRISM, 20_000, generator())
    assert torch.equal(points, again)


def test_near_points_have_the_spreads():
    square = Mesh([[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]], [[0, 1, 2], [0, 2, 3]])
    points = near_surface(square, 10_000, generator(), sigmas=(0.1, 1.0))
    assert float(points[::2, 2].std()) == pytest.approx(0.1, rel=0.05)
    assert float(points[1::2, 2].std()) == pytest.approx(1.0, rel=0.05)


def test_normalising_centres_the_box_and_can_be_undone():
    mesh, placement = normalise(PRISM)
    np.testing.assert_allclose(mesh.bounds[:, 2], [-0.95, 0.95])
    np.testing.assert_allclose(mesh.bounds.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(placement.restore(mesh).vertices, PRISM.vertices, atol=1e-12)
    np.testing.assert_allclose(placement.apply(PRISM).vertices, mesh.vertices)
    with pytest.raises(ValueError, match="no extent"):
        normalise(Mesh(np.ones((3, 3)), [[0, 1, 2]]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_farthest_points_are_those_of_brute_force(device):
    points = torch.rand(3, 200, 3, generator=generator()).to(device)
    found = farthest_points(points, 40, start=7).cpu()
    for cloud, chosen in zip(points.cpu().double(), found, strict=True):
        taken = [7]
        while len(taken) < 40:
            taken.append(int(torch.cdist(cloud, cloud[taken]).amin(1).argmax()))
        assert chosen.tolist() == taken
    drawn = farthest_points(points, 1, generator(3))
    assert drawn.shape == (3, 1)
    assert torch.equal(drawn, farthest_points(points, 1, generator(3)))


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match="n must be 1 to the number of points, got 6"):
        farthest_points(torch.zeros(1, 5, 3), 6)
    with pytest.raises(ValueError, match="no area"):
        surface_points(Mesh(np.zeros((3, 3)), [[0, 1, 2]]), 4)
    with pytest.raises(ValueError, match="finite"):
        Mesh([[0, 0, np.nan]], np.zeros((0, 3)))
    with pytest.raises(ValueError, match="indices from 0 to 2, got 0 to 3"):
        Mesh(np.zeros((3, 3)), [[0, 1, 3]])
