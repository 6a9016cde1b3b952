"""Certificates tell every fault; the largest part, and fewer faces, keep what is promised."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_shape.geometry import Mesh, certificate, decimate, extract, largest
from rectiflow_shape.geometry.solids import ball, box, joined, turned


def test_a_ball_passes():
    found = certificate(ball(), faces=1000)
    assert found.passed
    assert found.faults() == []
    document = found.document()
    assert (document["components"], document["watertight"], document["budget"]) == (1, True, 1000)


@pytest.mark.parametrize(
    ("mesh", "fault"),
    [
        (box().of_faces(box().faces[1:]), "3 edges are open"),
        (joined(box(), box((1, 1, -1), (3, 3, 1))), "1 edges have more than two faces"),
        (joined(box(), box((1, 1, 1), (3, 3, 3))), "1 vertices are not manifold"),
        (joined(box(), box().of_faces(box().faces[:1])), "1 faces are given twice"),
        (turned(box(), [3]), "3 edges or parts look inward"),
        (turned(box()), "1 edges or parts look inward"),
        (Mesh(np.zeros((3, 3)), np.zeros((0, 3))), "it has no faces"),
    ],
)
def test_each_fault_is_told(mesh, fault):
    found = certificate(mesh)
    assert not found.passed
    assert fault in found.faults()


def test_cavities_look_inward_and_pass():
    inner = box((-0.5,) * 3, (0.5,) * 3)
    assert certificate(joined(box(), turned(inner))).passed
    assert not certificate(joined(box(), turned(box((2, 2, 2), (3, 3, 3))))).passed


def test_vertices_at_one_place_count_as_one():
    soup = Mesh(box().triangles.reshape(-1, 3), np.arange(36).reshape(-1, 3))
    assert certificate(soup).passed


def test_the_largest_part_goes_by_volume_and_keeps_its_hollow():
    hollow = joined(box(), turned(box((-0.5,) * 3, (0.5,) * 3)))
    crumb = Mesh(ball(16).vertices * 0.3 + 5, ball(16).faces)
    kept = largest(joined(crumb, hollow))
    assert kept.volume == pytest.approx(7)
    assert largest(kept) is not None


def test_fewer_faces_stay_manifold():
    torus = extract(
        lambda p: 0.25 - ((p[:, :2].norm(dim=1) - 0.6) ** 2 + p[:, 2] ** 2).sqrt(), depth=5
    ).mesh
    less = decimate(torus, 500)
    found = certificate(less, faces=500)
    assert found.passed
    assert found.faces > 450
    assert less.volume == pytest.approx(torus.volume, rel=0.05)
    assert decimate(less, 1000) is less
    with pytest.raises(ValueError, match="needs a watertight manifold mesh, got one where 3 edges"):
        decimate(box().of_faces(box().faces[1:]), 6)
    with pytest.raises(ValueError, match="faces must be at least 4"):
        decimate(torus, 3)
