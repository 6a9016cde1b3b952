"""Meshes of channels: whole, fine where asked, and the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.meshing import Channel, mesh_channel

SIDES = (NodeType.INFLOW, NodeType.OUTFLOW, NodeType.WALL)


def test_a_channel_is_covered_once(mesh, channel):
    count = len(mesh.edges_of(NodeType.OBSTACLE))
    polygon = count / 2 * channel.radius**2 * np.sin(2 * np.pi / count)
    assert count == 16
    assert mesh.areas.min() > 0
    assert mesh.areas.sum() == pytest.approx(1.6 * 0.41 - polygon, rel=1e-12)
    assert [mesh.length_of(kind) for kind in SIDES] == pytest.approx([0.41, 0.41, 3.2])


def test_triangles_are_well_shaped_and_fine_at_the_cylinder(mesh, channel):
    corners = mesh.points[mesh.triangles]
    sides = np.linalg.norm(corners - np.roll(corners, -1, 1), axis=2)
    quality = 4 * np.sqrt(3) * mesh.areas / (sides**2).sum(1)
    assert quality.min() > 0.5
    away = np.linalg.norm(corners.mean(1) - channel.centre, axis=1)
    assert sides[away < 0.07].mean() < 0.5 * sides[away > 0.4].mean()


def test_the_same_channel_has_the_same_mesh(mesh, channel):
    again = mesh_channel(channel, 2 * np.pi * 0.05 / 16, 0.06)
    assert np.array_equal(again.points, mesh.points)
    assert np.array_equal(again.triangles, mesh.triangles)


def test_an_empty_channel_has_no_obstacle():
    empty = mesh_channel(Channel(radius=0), far=0.1)
    assert empty.areas.sum() == pytest.approx(1.6 * 0.41)
    assert not empty.nodes_of(NodeType.OBSTACLE).any()


@pytest.mark.parametrize(
    ("channel", "edge", "words"),
    [
        (((0.05, (0.3, 0.5)),), None, "gap of -0.14 m to the upper wall of the channel"),
        (((0.05, (0.03, 0.2)),), None, "gap of -0.02 m to the inflow"),
        (((0.05, (0.3, 0.05)),), None, "gap of 0 m to the lower wall"),
        (((-0.05,),), None, "must be positive"),
        (((float("nan"),),), None, "finite"),
        (((0.05,),), 0.06, "too coarse: 5 around the cylinder.*at most 0.0262 m"),
        (((0.05, (0.3, 0.06)),), 0.02, "too coarse for the gap of 0.01 m"),
        (((0.05,),), 0.0, "edge length must be positive"),
    ],
)
def test_the_impossible_is_refused(channel, edge, words):
    with pytest.raises(ValueError, match=words):
        mesh_channel(Channel(*channel[0]), edge)


def test_a_mesh_says_what_is_wrong_with_it():
    points = np.array([[0, 0], [1, 0], [0, 1.0]])
    with pytest.raises(ValueError, match=r"nodes 1 to 3, got 3 nodes.*count from 1"):
        Mesh(points, [[1, 2, 3]], [0, 0, 0])
    with pytest.raises(ValueError, match="node types"):
        Mesh(points, [[0, 1, 2]], [0, 0])
    with pytest.raises(ValueError, match="needs triangles"):
        Mesh(points, np.zeros((0, 3)), [0, 0, 0])


def test_gradients_of_hat_functions_are_those_of_a_linear_field(mesh):
    values = 1 + 2 * mesh.points[:, 0] - 3 * mesh.points[:, 1]
    found = np.einsum("mi,mia->ma", values[mesh.triangles], mesh.gradients)
    assert np.allclose(found, [2, -3], atol=1e-9)
    assert mesh.node_areas.sum() == pytest.approx(mesh.areas.sum())
