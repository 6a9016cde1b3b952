"""Scans read and completed, and boxes of meshes drawn anew, on shapes made here."""

import numpy as np
import pytest
import torch
from rectiflow_shape import Asked, MosaicTransformer, ShapePipeline, ShapeSettings
from rectiflow_shape.completion import complete, edit, guess, redrawn
from rectiflow_shape.data.mosaics import THICKNESS
from rectiflow_shape.geometry import SignedDistance, extract, normalise, surface_points
from rectiflow_shape.geometry.solids import ball, box
from rectiflow_shape.io import MeshFileError, read_scan, write_mesh
from rectiflow_shape.metrics import chamfer_l1
from rectiflow_shape.mosaic import FitSettings
from rectiflow_shape.mosaic.fit import start
from rectiflow_shape.scan import Scan, ScanDistance

SIDE = np.array([0.6, 0.0, 0.8])


@pytest.fixture(scope="module")
def pipe():
    """Weights that make noise around a ball."""
    torch.manual_seed(0)
    network = MosaicTransformer(4, 16, 2, 1, classes=1)
    scan = Scan.of_mesh(ball(24, 0.9), torch.Generator().manual_seed(0))
    cloud = map(torch.from_numpy, (scan.points, scan.normals))
    told = FitSettings(48, 4, steps=0, pool=1), torch.Generator().manual_seed(0)
    made = start(*cloud, ScanDistance(scan), *told).mosaic
    network.measure(made.centres, made.scales * torch.linspace(0.9, 1.1, 48), made.values)
    settings = ShapeSettings(steps=2, tokens=48, depth=5, classes=("ball",))
    return ShapePipeline(network, settings=settings)


def half(mesh, side=SIDE):
    scan = Scan.of_mesh(mesh, torch.Generator().manual_seed(0))
    return scan.some(scan.points @ side > 0)


def sphere_depth(size=120, focal=150.0, away=3.0):
    """Return the depth of a ball of radius 0.9 before a camera, and the camera."""
    y, x = np.mgrid[:size, :size]
    middle = (size - 1) / 2
    rays = np.stack([(x - middle) / focal, (y - middle) / focal, np.ones((size, size))], -1)
    a, b, c = (rays**2).sum(-1), -2 * away, away**2 - 0.81
    inside = b * b - 4 * a * c
    depth = np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / (2 * a), 0.0)
    return depth, np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])


def test_a_scan_has_a_distance_and_says_from_where_it_was_seen():
    scan = half(ball(24, 0.9))
    assert scan.end[0] == pytest.approx(SIDE, abs=0.04)
    assert scan.end[1] == pytest.approx(0, abs=0.02)
    points = scan.points[:500, None] * np.linspace(0.9, 1.1, 5)[:, None]
    points = torch.from_numpy(points.reshape(-1, 3))
    assert (ScanDistance(scan)(points) - (points.norm(dim=1) - 0.9)).abs().max() < 0.02


def test_points_seen_from_a_place_get_normals():
    scan = half(ball(24, 0.9))
    found = Scan.of_points(scan.points, 200 * SIDE)
    assert (found.normals * scan.normals).sum(1).mean() > 0.98


def test_a_depth_map_is_points_where_the_camera_was_turned():
    depth, camera = sphere_depth()
    scan = Scan.of_depth(depth, camera)
    off = scan.points - [0, 0, -3]
    assert np.linalg.norm(off, axis=1) == pytest.approx(0.9, abs=1e-6)
    assert (off * scan.normals).sum(1).mean() > 0.89
    depth[50:60, 50:60] = np.nan  # not seen
    pose = np.diag([1.0, -1, -1, 1])
    pose[:3, 3] = 0, 0, 3
    again = Scan.of_depth(depth, camera, pose)
    assert len(again.points) < len(scan.points)
    assert np.linalg.norm(again.points, axis=1) == pytest.approx(0.9, abs=1e-6)


def test_symmetry_is_believed_where_the_scan_shows_it():
    flat = box((-0.95, -0.5, -0.3), (0.95, 0.5, 0.3))
    found = guess(half(flat))
    assert {"mirror x", "mirror z"} <= set(found.by)
    assert "turn 90" not in found.by
    assert not found.doubtful.any()
    wedge = box((-0.95, -0.5, -0.3), (0.95, 0.5, 0.3))
    wedge.vertices[wedge.vertices[:, 0] > 0] *= (1, 0.3, 0.5)
    bent = guess(half(wedge, np.array([1.0, 0, 0])))
    assert "mirror x" not in bent.by


def test_half_a_ball_becomes_a_ball_in_its_place(pipe):
    scan = half(ball(24, 0.9))
    shifted = Scan(2 * scan.points + [5, 0, 1], scan.normals)
    bounds = 1.8 * np.array([[-1.0] * 3, [1.0] * 3]) + [5, 0, 1]
    [made] = complete(pipe, shifted, box=bounds).samples
    assert made.told["certificate"]["passed"]
    assert made.told["grids_drawn"] == 0  # symmetry says it all
    points, _ = surface_points(made.mesh, 5000, torch.Generator().manual_seed(0))
    truth, _ = surface_points(ball(24, 1.8), 5000, torch.Generator().manual_seed(1))
    assert chamfer_l1((points - torch.tensor([5, 0, 1])), truth) < 0.1


def test_seen_grids_stay_and_others_depend_on_the_seed(pipe):
    tokens = torch.randn(48, pipe.network.channels, generator=torch.Generator().manual_seed(0))
    region = torch.arange(48) >= 30
    told = [pipe.options(seed=seed) for seed in (0, 0, 1)]
    first, same, other = (redrawn(pipe, tokens, region, 0.7, o, Asked()) for o in told)
    assert torch.equal(first[:30], tokens[:30])
    assert torch.equal(first, same)
    assert not torch.allclose(first[30:], other[30:])
    small = redrawn(pipe, tokens, region, 0.01, told[0], Asked())
    assert (small - tokens).norm() < 0.1 * (first - tokens).norm()
    assert torch.equal(redrawn(pipe, tokens, region, 0.0, told[0], Asked()), tokens)


def test_an_edit_changes_the_box_only(pipe):
    mesh = ball(24, 0.9)
    region = np.array([[-1.0, 0.3, -1.0], [1.0, 1.0, 1.0]])
    [made] = edit(pipe, mesh, region, depth=5).samples
    assert made.told["certificate"]["passed"]
    whole, placement = normalise(mesh)
    distance = SignedDistance(whole, THICKNESS)
    plain = placement.restore(extract(lambda x: -distance(x), depth=5).mesh)
    kept, had = (v.vertices[v.vertices[:, 1] < 0.25] for v in (made.mesh, plain))
    assert {*map(tuple, kept)} == {*map(tuple, had)}
    assert {*map(tuple, made.mesh.vertices)} != {*map(tuple, plain.vertices)}


def test_scans_are_read_in_all_their_forms(tmp_path):
    from PIL import Image

    scan = half(ball(24, 0.9))
    write_mesh(tmp_path / "mesh.ply", ball(12, 0.9))
    assert len(read_scan(tmp_path / "mesh.ply").points) == 20_000
    np.savez(tmp_path / "points.npz", points=scan.points, normals=scan.normals)
    found = read_scan(tmp_path / "points.npz", up="z")
    assert found.points[:, 1] == pytest.approx(scan.points[:, 2])
    rows = np.concatenate([scan.points[:200], scan.normals[:200]], 1)
    names = ("x", "y", "z", "nx", "ny", "nz")
    head = [
        "ply",
        "format ascii 1.0",
        "element vertex 200",
        *(f"property float {n}" for n in names),
    ]
    lines = [*head, "end_header", *(" ".join(map(str, row)) for row in rows)]
    (tmp_path / "points.ply").write_text("\n".join(lines) + "\n")
    assert read_scan(tmp_path / "points.ply").normals == pytest.approx(scan.normals[:200])
    bare = "\n".join(f"v {x} {y} {z}" for x, y, z in scan.points[:200])
    (tmp_path / "points.obj").write_text(bare)
    with pytest.raises(MeshFileError, match="no normals"):
        read_scan(tmp_path / "points.obj")
    assert len(read_scan(tmp_path / "points.obj", eye=5 * SIDE).points) == 200
    depth, camera = sphere_depth()
    Image.fromarray((1000 * depth).astype(np.uint16)).save(tmp_path / "depth.png")
    told = camera[0, 0], camera[1, 1], camera[0, 2], camera[1, 2]
    found = read_scan(tmp_path / "depth.png", intrinsics=told)
    assert np.linalg.norm(found.points - (0, 0, -3), axis=1) == pytest.approx(0.9, abs=0.01)
    with pytest.raises(MeshFileError, match="nothing of its camera"):
        read_scan(tmp_path / "depth.png")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"points": np.zeros((5, 3)), "normals": np.ones((5, 3))}, "at least 100 points, got 5"),
        ({"points": np.full((200, 3), np.nan), "normals": np.ones((200, 3))}, "200 rows of 200"),
        ({"points": np.zeros((200, 3)), "normals": np.zeros((200, 3))}, "must have a length"),
        ({"points": np.zeros((200, 2)), "normals": np.ones((200, 3))}, r"shape \(n, 3\)"),
        ({"places": np.zeros(3)}, "it holds places"),
        ({"depth": np.zeros((9, 9)), "intrinsics": np.eye(3)}, "at least 100 points, got 0"),
        ({"depth": np.zeros((9, 9)), "intrinsics": np.zeros((3, 3))}, "positive focal lengths"),
    ],
)
def test_bad_scans_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "scan.npz", **arrays)
    with pytest.raises(MeshFileError, match=said):
        read_scan(tmp_path / "scan.npz")


def test_what_cannot_be_completed_or_edited_is_refused(pipe):
    scan, mesh = half(ball(24, 0.9)), ball(12, 0.9)
    with pytest.raises(ValueError, match="must hold the object"):
        complete(pipe, scan, box=np.array([[0.0] * 3, [0.5] * 3]))
    with pytest.raises(ValueError, match="three least and three greater"):
        complete(pipe, scan, box=np.array([[1.0] * 3, [0.5] * 3]))
    with pytest.raises(ValueError, match="doubt must lie in 0 to 1"):
        edit(pipe, mesh, np.array([[-1.0] * 3, [1.0] * 3]), doubt=1.5)
    with pytest.raises(ValueError, match="no surface lies in the box"):
        edit(pipe, mesh, np.array([[2.0] * 3, [3.0] * 3]))
