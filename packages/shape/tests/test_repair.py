"""What is mended of meshes, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_shape.geometry import orient, repair
from rectiflow_shape.geometry.solids import ball, box, joined, turned

INNER = box((-0.5,) * 3, (0.5,) * 3)


def test_a_ball_is_closed_and_looks_outward():
    mesh, report = repair(ball().vertices, ball().faces)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.05)
    assert str(report) == "nothing to repair"


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
@pytest.mark.parametrize("place", [0.0, 1e7])
def test_vertices_are_welded_relative_to_the_size(size, place):
    mesh = box()
    if place and size < 1:
        pytest.skip("float64 itself has no such box")
    soup = size * mesh.triangles.reshape(-1, 3) + place
    welded, report = repair(soup, np.arange(36).reshape(-1, 3))
    assert (len(welded.vertices), report.welded, report.open_edges) == (8, 28, 0)
    assert welded.volume == pytest.approx(8 * size**3, rel=1e-5)


def test_what_is_no_face_is_dropped_and_counted():
    vertices = np.concatenate(
        [box().vertices, [[np.nan] * 3, [0, 0, np.inf], [9e6, 0, 0], [0, 0, -1]]]
    )
    bad = [[0, 1, 8], [0, 1, 9], [0, 0, 1], [4, 6, 2], [3, 1, 2], [7, 5, 3]]
    middle = [[0, 3, 11]]  # on the diagonal of a side
    mesh, report = repair(vertices, np.concatenate([box().faces, bad, middle]))
    assert (report.nonfinite, report.degenerate, report.duplicates) == (2, 2, 3)
    assert (len(mesh.vertices), len(mesh.faces), report.unused) == (8, 12, 3)
    assert mesh.volume == pytest.approx(8)
    assert "dropped 3 duplicate faces" in str(report)
    assert "dropped 2 degenerate faces" in str(report)


@pytest.mark.parametrize("which", [slice(None), slice(0, None, 3), [5]])
def test_windings_are_mended(which):
    mesh, report = orient(turned(ball(), which))
    assert np.array_equal(mesh.faces, ball().faces) or mesh.volume > 0
    assert mesh.volume == pytest.approx(ball().volume)
    assert report.turned == len(ball().faces[which])
    assert report.inverted == (which == slice(None))


@pytest.mark.parametrize("invert", [False, True], ids=["as it is", "inverted as a whole"])
def test_a_cavity_stays_one(invert):
    hollow = joined(box(), turned(INNER))
    mesh, report = orient(turned(hollow) if invert else hollow)
    assert mesh.volume == pytest.approx(7)
    assert (report.cavities, report.nested) == (1, 0)


def test_a_solid_within_a_solid_is_none():
    mesh, report = orient(joined(box(), INNER))
    assert mesh.volume == pytest.approx(9)
    assert (report.cavities, report.nested) == (0, 1)
    assert "solid, not hollow" in str(report)


def test_an_inner_shell_of_mixed_winding_goes_by_its_depth():
    core = box((-0.2,) * 3, (0.2,) * 3)
    mesh, report = orient(joined(box(), turned(INNER, slice(0, None, 4)), core))
    assert mesh.volume == pytest.approx(8 - 1 + 0.064)
    assert report.cavities == 1


def test_open_patches_that_look_inward_together_are_turned():
    lid = ball().of_faces(ball().faces[24:])
    mesh, report = orient(turned(lid))
    assert mesh.volume == pytest.approx(lid.volume)
    assert report.inverted == 1


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        (ball().of_faces(ball().faces[5:]), ["not closed: 7 boundary edges"]),
        (joined(box(), box((0, -0.5, -0.5), (2, 0.5, 0.5))), ["2 parts", "overlap or intersect"]),
        (joined(box(), box((1, 1, -1), (3, 3, 1))), ["1 edges are not manifold"]),
        (joined(box(), box((1, 1, 1), (3, 3, 3))), ["1 vertices are not manifold", "2 parts"]),
        (box((-1, 0, -1), (1, 1e-30, 1)), ["no volume"]),
    ],
)
def test_what_a_mesh_is_like_is_said(mesh, words):
    _, report = repair(mesh.vertices, mesh.faces)
    for word in words:
        assert word in str(report)


def test_nothing_with_an_area_is_refused():
    with pytest.raises(
        ValueError, match=r"no face with an area, got 1 faces \(dropped 1 degenerate"
    ):
        repair(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(ValueError, match="no face with an area, got 0 faces"):
        repair(np.zeros((3, 3)), np.zeros((0, 3), int))
