"""What is done to surfaces of generated mosaics, and what the shipped latents give."""

import numpy as np
import torch
import trimesh
from rectiflow_shape.geometry import Mesh, certificate
from rectiflow_shape.pipeline import ShapePipeline
from rectiflow_shape.reconstruction import by_vae, compare, encode
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


def test_the_shipped_autoencoder_rebuilds_and_its_flow_makes_closed_shapes():
    pipe = ShapePipeline.from_pretrained("small_triposg")
    ring = trimesh.creation.torus(0.6, 0.3)  # its axis is z, where no training shape has one
    mesh = Mesh(ring.vertices.copy(), ring.faces.copy())
    generator = torch.Generator().manual_seed(0)
    encoded = encode(pipe.vae, mesh, 96, generator, surface=4096)
    found = by_vae(pipe.vae, encoded, 6).mesh
    assert certificate(found).passed
    assert compare(found, mesh, generator)["iou"] > 0.8
    [made] = pipe("a low-poly rock", steps=8, depth=5).samples
    assert certificate(made.mesh).passed
