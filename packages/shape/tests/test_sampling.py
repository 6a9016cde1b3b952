"""What is done to surfaces of generated mosaics."""

import numpy as np
from rectiflow_shape.geometry import Mesh, certificate
from rectiflow_shape.sampling import without_crumbs


def tetrahedron(size, at):
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]) * size + at
    return corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_crumbs_are_dropped_and_the_rest_stays_closed():
    parts = [tetrahedron(1.0, 0), tetrahedron(0.5, 2), tetrahedron(0.01, 4)]
    vertices = np.concatenate([v for v, _ in parts])
    faces = np.concatenate([f + 4 * i for i, (_, f) in enumerate(parts)])
    found = without_crumbs(Mesh(vertices, faces))
    judged = certificate(found)
    assert (judged.components, judged.faces, judged.passed) == (2, 8, True)
    assert len(found.vertices) == 8
    assert certificate(without_crumbs(found, share=1.0)).components == 1
