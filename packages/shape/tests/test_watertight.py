"""Watertight copies: manifold, and as far from the input as they say."""

from __future__ import annotations

import numpy as np
import pytest
from rectiflow_shape.geometry import Mesh, certificate, watertight
from rectiflow_shape.geometry.solids import ball, box, joined


def test_a_broken_solid_is_closed_where_it_was():
    mesh = Mesh(ball(24).vertices * 7 + 100, ball(24).faces)
    kept = np.random.default_rng(0).random(len(mesh.faces)) > 0.02
    made = watertight(mesh.of_faces(kept), depth=6)
    assert certificate(made.mesh).passed
    assert made.mesh.volume == pytest.approx(mesh.volume, rel=0.01)
    assert made.cell == pytest.approx(2 * 1.005 / 64 * 7 / 0.95)
    assert made.mean < 0.1 * made.cell
    assert made.largest < made.cell


def test_touching_and_overlapping_parts_become_manifold():
    for other in (box((1, 1, -1), (3, 3, 1)), box((1, 1, 1), (2, 2, 2)), box((0, 0, 0), (2, 3, 2))):
        found = certificate(watertight(joined(box(), other), depth=5).mesh)
        assert found.passed, found.faults()


def test_what_is_thickened_and_what_is_swallowed_is_told():
    sheet = Mesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 2, 1], [0, 3, 2]])
    made = watertight(sheet, depth=5, thickness=0.1)
    assert made.thickness == pytest.approx(0.1)
    assert made.mean_back == pytest.approx(0.1, rel=0.2)
    assert np.ptp(made.mesh.bounds, axis=0)[1] == pytest.approx(0.2, rel=0.1)
    thin = joined(box(), box((1.2, -1, 0.03), (1.8, 1, 0.032)))
    swallowed = watertight(thin, depth=5)
    assert swallowed.largest > 0.7 > 5 * swallowed.cell
    assert swallowed.largest_back < swallowed.cell
