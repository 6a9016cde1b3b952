"""Extraction: the dense surface from few queries, closed and manifold whatever the field is."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from rectiflow_shape.geometry import BOX, Mesh, extract, saturation
from rectiflow_shape.geometry.extract import MARGIN


def sphere(points, radius=0.5, centre=(0.0, 0.0, 0.0)):
    return radius - (points - torch.tensor(centre)).norm(dim=1)


def torus(points):
    return 0.2 - ((points[:, :2].norm(dim=1) - 0.6) ** 2 + points[:, 2] ** 2).sqrt()


def cube(points, half=BOX / 2):
    return half - points.abs().amax(1)


def small_and_thin(points):
    ball = sphere(points, 0.011, (0.4137, 0.4211, 0.4073))
    x, y, z = points.unbind(1)
    plate = torch.minimum(
        0.3 - torch.maximum((x - 0.5).abs(), (y + 0.5).abs()), 0.005 - (z - 0.0235).abs()
    )
    return torch.stack([sphere(points, 0.3, (-0.5, 0.0, 0.0)), ball, plate]).amax(0)


def edges_of(faces):
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def assert_manifold(mesh: Mesh):
    """Every edge once in each direction, one fan a vertex, no face twice or without area."""
    edges = edges_of(mesh.faces)
    directed = {tuple(edge) for edge in edges.tolist()}
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    follows = {}
    for a, b, c in mesh.faces.tolist():
        for v, i, j in ((a, b, c), (b, c, a), (c, a, b)):
            follows.setdefault(v, {})[i] = j
    for ring in follows.values():
        start = at = next(iter(ring))
        steps = 1
        while (at := ring[at]) != start:
            steps += 1
        assert steps == len(ring)
    single = Mesh(mesh.vertices.astype(np.float32), mesh.faces)
    assert len(np.unique(single.vertices, axis=0)) == len(mesh.vertices)
    assert single.areas.min() > 0
    assert mesh.volume > 0


def parts_of(mesh: Mesh) -> list[float]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = edges_of(mesh.faces)
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(edges)), edges.T), (count, count))
    number, label = connected_components(graph, directed=False)
    return sorted(mesh.of_faces(label[mesh.faces[:, 0]] == k).volume for k in range(number))


@pytest.mark.parametrize("field", [sphere, torus], ids=["sphere", "torus"])
def test_vertices_are_those_of_the_dense_grid(field):
    from skimage.measure import marching_cubes

    depth = 6
    found = extract(field, depth=depth)
    axis = torch.linspace(-BOX, BOX, 2**depth + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis).float()
    values = field(grid).reshape(3 * (2**depth + 1,)).numpy()
    step = 2 * BOX / 2**depth
    vertices, faces, *_ = marching_cubes(values, 0.0, spacing=(step,) * 3)
    from scipy.spatial import cKDTree

    distance, index = cKDTree(found.mesh.vertices).query(vertices - BOX)
    assert len(set(index.tolist())) == len(vertices) == len(found.mesh.vertices)
    assert distance.max() < 1e-6
    assert len(faces) == len(found.mesh.faces)
    assert_manifold(found.mesh)


def test_sparse_and_dense_are_the_same_mesh(monkeypatch):
    module = importlib.import_module("rectiflow_shape.geometry.extract")
    sparse = extract(small_and_thin, depth=6)
    monkeypatch.setattr(module, "_COARSE", 6)
    dense = extract(small_and_thin, depth=6)
    assert dense.queries == dense.dense > 5 * sparse.queries

    def corners(mesh):
        triangles = mesh.triangles.reshape(-1, 9)
        return triangles[np.lexsort(triangles.T)]

    assert np.array_equal(corners(sparse.mesh), corners(dense.mesh))


@pytest.mark.parametrize(
    ("field", "volume"),
    [
        (sphere, 4 / 3 * np.pi * 0.125),
        (torus, 2 * np.pi**2 * 0.6 * 0.04),
        (lambda p: sphere(p, 0.95), 4 / 3 * np.pi * 0.95**3),
    ],
    ids=["sphere", "torus", "largest"],
)
def test_depth_8_takes_at_most_6_percent_of_the_dense_queries(field, volume):
    seen = []

    def counted(points):
        seen.append(points)
        return field(points)

    found = extract(counted, depth=8)
    points = torch.cat(seen)
    assert found.queries == len(points) == len(points.unique(dim=0)) <= 0.06 * found.dense
    assert points.dtype == torch.float32
    assert found.mesh.volume == pytest.approx(volume, rel=1e-3)  # right scale, outward
    assert np.abs(found.mesh.bounds.sum(0)).max() < 1e-6  # right place
    assert found.smallest == 0
    assert not found.capped


def test_parts_that_no_node_of_the_coarse_grid_hits_are_found():
    found = extract(small_and_thin, depth=8)
    small, plate, ball = parts_of(found.mesh)
    assert ball == pytest.approx(4 / 3 * np.pi * 0.027, rel=0.01)
    assert plate == pytest.approx(0.0036, rel=0.03)
    # 1.4 cells of radius: scikit-image's polyhedron of the dense grid has 68 faces and this volume.
    assert small == pytest.approx(3.908e-6, rel=0.01)
    assert found.queries < 0.06 * found.dense


def test_a_truncated_field_is_searched_as_finely_as_its_band_asks():
    def truncated(tau):
        return lambda points: (small_and_thin(points) / tau).clamp(-1, 1)

    found = extract(truncated(0.05), depth=8, truncation=0.05)
    assert found.smallest == 0
    assert len(parts_of(found.mesh)) == 3
    assert found.queries < 0.06 * found.dense
    narrow = extract(truncated(0.01), depth=7, truncation=0.01)
    assert narrow.smallest == pytest.approx(2 * BOX / 32 * 3**0.5 / 2 - 0.0095, rel=1e-6)


def test_the_truncation_of_a_field_can_be_measured():
    def truncated(points):
        return (torus(points) / 0.08).clamp(-1, 1)

    mesh = extract(truncated, depth=5).mesh
    assert saturation(truncated, mesh, furthest=0.2) == pytest.approx(0.08, rel=0.05)
    assert saturation(torus, mesh, furthest=0.02) > 0.02


def test_the_scale_of_the_field_does_not_matter():
    plain, tiny = (extract(lambda p, s=s: s * sphere(p), depth=6) for s in (1.0, 1e-7))
    assert plain.queries == tiny.queries
    np.testing.assert_allclose(plain.mesh.vertices, tiny.mesh.vertices, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_any_values_give_a_closed_manifold(depth):
    generator = torch.Generator().manual_seed(depth)
    for number in range(12):
        drawn = (
            (lambda p: torch.randn(len(p), generator=generator)),
            (lambda p: torch.randint(-2, 3, (len(p),), generator=generator).float()),
            (lambda p: (-1.0) ** ((p / BOX + 1) * 2 ** (depth - 1)).round().sum(1)),
        )[number % 3]
        values = {}

        def field(points, drawn=drawn, values=values):
            found = drawn(points)
            values.update(zip(map(tuple, points.tolist()), found.tolist(), strict=True))
            return found

        assert_manifold(extract(field, depth=depth).mesh)


def test_nodes_are_inside_where_the_field_is_positive():
    import igl

    generator = torch.Generator().manual_seed(1)
    seen = []

    def field(points):
        values = torch.randint(-2, 3, (len(points),), generator=generator).float()
        seen.append((points, values))
        return values

    mesh = extract(field, depth=3).mesh
    points, values = (torch.cat(each) for each in zip(*seen, strict=True))
    turns = igl.winding_number(mesh.vertices, mesh.faces, points.double().numpy())
    assert np.array_equal(turns[values != 0].round(), (values > 0)[values != 0])
    np.testing.assert_allclose(turns, turns.round(), atol=1e-2)


def test_a_cube_on_the_lattice_has_no_degenerate_face():
    found = extract(cube, depth=6)
    assert_manifold(found.mesh)
    assert found.mesh.volume == pytest.approx(BOX**3, rel=0.01)


def test_a_surface_that_leaves_the_box_is_capped_and_said_so():
    found = extract(lambda p: sphere(p, 0.7, (0.6, 0.0, 0.0)), depth=6)
    assert found.capped
    assert_manifold(found.mesh)
    assert found.mesh.volume == pytest.approx(1.272261, rel=0.01)
    assert found.mesh.bounds[1, 0] == pytest.approx(BOX, abs=2 * MARGIN)


def test_a_field_steeper_than_was_measured_stays_closed():
    def steep(points):
        return torch.where(points[:, 0] > 0.013, 30.0, 1.0) * torus(points)

    assert_manifold(extract(steep, depth=7).mesh)


@pytest.mark.parametrize(
    ("field", "options", "message"),
    [
        (
            lambda p: 0 * p[:, 0] + 0.3,
            {},
            r"no surface at level 0, got values from 0\.3 to 0\.3.*positive",
        ),
        (lambda p: 0 * p[:, 0] - 0.3, {}, "no surface.*negative"),
        (lambda p: p[:, 0] / 0, {}, "the field is NaN or infinite at"),
        (sphere, {"depth": 0}, "depth must be 1 to 12, got 0"),
        (sphere, {"truncation": 0.0}, "truncation must be positive, got 0"),
    ],
)
def test_what_has_no_surface_is_refused(field, options, message):
    with pytest.raises(ValueError, match=message):
        extract(field, **{"depth": 5, **options})
