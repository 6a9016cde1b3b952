"""Signed distance: closed forms on good meshes, and on meshes that are broken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rectiflow_shape.geometry import SURE, Mesh, SignedDistance
from rectiflow_shape.geometry.solids import ball, box, joined, turned

INNER = box((-0.5,) * 3, (0.5,) * 3)


def box_distance(points, low=(-1, -1, -1), high=(1, 1, 1)):
    low, high = torch.tensor(low).double(), torch.tensor(high).double()
    away = (points - (low + high) / 2).abs() - (high - low) / 2
    return away.clamp(min=0).norm(dim=1) + away.amax(1).clamp(max=0)


@pytest.fixture
def points():
    return torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)).double() * 4 - 2


@pytest.mark.parametrize("which", [[], slice(None), slice(0, None, 3)])
def test_a_box_of_any_winding_is_exact(points, which):
    distance = SignedDistance(turned(box(), which))
    torch.testing.assert_close(distance(points), box_distance(points), atol=1e-6, rtol=0)
    assert distance.confidence() == pytest.approx(1)
    assert distance(points.float()).dtype == torch.float32
    assert distance(points[:0]).shape == (0,)


@pytest.mark.parametrize(("size", "place"), [(1e-9, 0.0), (1e3, 0.0), (1.0, 4e6), (1e20, 0.0)])
def test_size_and_place_do_not_matter(points, size, place):
    mesh = Mesh(box().vertices * size + place, box().faces)
    found = SignedDistance(mesh)(points * size + place)
    torch.testing.assert_close(found / size, box_distance(points), atol=1e-5, rtol=0)


def test_overlapping_parts_are_measured_to_their_union(points):
    distance = SignedDistance(joined(box(), box((0, -0.5, -0.5), (2, 0.5, 0.5))))
    asked = torch.tensor(
        [[0.5, 0, 0], [0.1, 0, 0], [0.9, 0, 0], [1.5, 0, 0], [2.5, 0, 0], [1.2, 0.8, 0]]
    )
    told = [-(0.5**0.5), -1.0, -(0.26**0.5), -0.5, 0.5, 0.2]
    torch.testing.assert_close(distance(asked), torch.tensor(told), atol=1e-6, rtol=0)
    assert distance.boundary.volume == pytest.approx(9)
    other = box_distance(points, (0, -0.5, -0.5), (2, 0.5, 0.5))
    union = torch.minimum(box_distance(points), other)
    outside = union > 0
    torch.testing.assert_close(distance(points)[outside], union[outside], atol=1e-6, rtol=0)
    assert bool(((distance(points) < 0) == (union < 0)).all())


def test_boxes_that_share_a_side_are_one():
    tower = SignedDistance(joined(box(), box((-0.5, 1, -0.5), (0.5, 3, 0.5))))
    asked = torch.tensor([[0, 1.0, 0], [0, 0.9, 0], [0, 1.2, 0], [0.8, 1.0, 0]]).double()
    told = [-0.5, -(0.26**0.5), -0.5, 0.0]
    torch.testing.assert_close(tower(asked), torch.tensor(told).double(), atol=1e-6, rtol=0)


def test_hollow_and_solid():
    middle = torch.zeros(1, 3).double()
    assert SignedDistance(joined(box(), turned(INNER)))(middle) == pytest.approx(0.5)
    assert SignedDistance(joined(box(), INNER))(middle) == pytest.approx(-1)
    assert SignedDistance(joined(box(), INNER)).boundary.volume == pytest.approx(8)


def test_signs_hold_inside_thin_walls_and_beside_gaps(points):
    plate = SignedDistance(box((-1, -1, -0.001), (1, 1, 0.001)))
    told = box_distance(points, (-1, -1, -0.001), (1, 1, 0.001))
    torch.testing.assert_close(plate(points), told, atol=1e-6, rtol=0)
    inside = torch.tensor([[0, 0, 0], [0.3, 0.2, 0.0005]]).double()
    torch.testing.assert_close(
        plate(inside), torch.tensor([-0.001, -0.0005]).double(), atol=1e-6, rtol=0
    )
    whole = ball(24)
    kept = np.random.default_rng(0).random(len(whole.faces)) > 0.03
    broken = SignedDistance(whole.of_faces(kept))
    radius = points.norm(dim=1)
    clear = (radius - 1).abs() > 0.05
    assert ((broken(points) < 0) == (radius < 1))[clear].double().mean() > 0.998
    assert broken.confidence() > SURE


def test_a_sheet_is_unsure_and_has_an_inside_only_by_its_thickness():
    square = Mesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 2, 1], [0, 3, 2]])
    asked = torch.tensor([[0.1, 0.3, 0.2], [0.1, -0.3, 0.2], [1.3, 0, 1.4], [0, 0, 0]]).double()
    told = torch.tensor([0.3, 0.3, 0.5, 0.0]).double()
    sheet = SignedDistance(square)
    torch.testing.assert_close(sheet(asked), told, atol=1e-6, rtol=0)
    assert sheet.confidence() == 0
    thick = SignedDistance(square, thickness=0.02)
    torch.testing.assert_close(thick(asked), told - 0.02, atol=1e-6, rtol=0)
    drawn, normals = thick.surface(500, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        drawn[:, 1].abs(), torch.full((500,), 0.02).double(), atol=1e-9, rtol=0
    )
    assert bool((drawn[:, 1] * normals[:, 1] > 0).all())
    leafy = SignedDistance(joined(box((0, 1, 0), (2, 3, 2)), square))
    assert leafy(torch.tensor([[1.0, 2, 1]]).double()) == pytest.approx(-1)
    assert leafy(torch.tensor([[-0.5, 0.1, -0.5]]).double()) == pytest.approx(0.1)


def test_the_surface_is_that_of_the_union():
    distance = SignedDistance(joined(box(), box((0, -0.5, -0.5), (2, 0.5, 0.5))))
    drawn, normals = distance.surface(2000, torch.Generator().manual_seed(0))
    assert drawn.shape == normals.shape == (2000, 3)
    assert distance(drawn).abs().max() < 1e-6
    assert distance(drawn + 1e-3 * normals).min() > 0
    assert distance(drawn - 1e-3 * normals).max() < 0


def test_nearest_points_lie_on_the_surface_at_the_distance(points):
    found, closest = SignedDistance(ball())(points), SignedDistance(ball()).nearest(points)[1]
    torch.testing.assert_close((points - closest).norm(dim=1), found.abs(), atol=1e-9, rtol=0)


def test_no_faces_are_refused():
    with pytest.raises(ValueError, match="needs faces, got none"):
        SignedDistance(Mesh(np.zeros((3, 3)), np.zeros((0, 3))))
