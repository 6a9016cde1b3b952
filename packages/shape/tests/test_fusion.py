"""Normal maps: pictures that can be differentiated, and meshes made of them."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from rectiflow_cli.main import main
from rectiflow_shape.fusion import VIEWS, FusionSettings, fuse_normals, visual_hull
from rectiflow_shape.geometry import Mesh, SignedDistance, certificate
from rectiflow_shape.geometry.solids import ball, box
from rectiflow_shape.io import read_mesh, read_normals
from rectiflow_shape.io.errors import ImageFileError
from rectiflow_shape.rasterise import Preconditioner, Surface
from rectiflow_shape.render import Camera, render

AROUND = [Camera(azimuth, 0.0, 60.0) for azimuth in (0, 90, 180, 270)]
QUICK = FusionSettings(steps=(60,), depths=(4,), depth=5, size=48)


def maps(mesh, cameras=AROUND, size=64):
    seen = [render(mesh, camera, size) for camera in cameras]
    return torch.stack([p.normals for p in seen]), torch.stack([p.mask.float() for p in seen])


def off(found, radius):
    return float((torch.from_numpy(found.vertices).norm(dim=1) - radius).abs().mean())


@pytest.fixture(scope="module")
def sphere():
    return fuse_normals(*maps(ball(40, 0.7)), AROUND, QUICK)


@pytest.mark.parametrize("view", [0.0, 50.0])
def test_coverage_follows_the_outline_exactly(view):
    mesh, camera = ball(24, 0.6), Camera(20, 10, view)
    surface, size = Surface(mesh), 48
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    picture = surface.picture(scale * torch.from_numpy(mesh.vertices), camera, size)
    covered = picture[..., 3].sum()
    (slope,) = torch.autograd.grad(covered, scale)
    # A ball of radius r covers a disc of radius R; the ball of faces is a little less.
    d = camera.distance
    pixels = size / 2 / (math.tan(math.radians(view) / 2) if view else 1.15)
    r2 = pixels**2 * (0.36 / (d**2 - 0.36) if view else 0.36)
    by_r = 2 * math.pi * r2 * (1 / (1 - 0.36 / d**2) if view else 1)
    assert float(covered.detach()) == pytest.approx(math.pi * r2, rel=0.02)
    assert float(slope) == pytest.approx(by_r, rel=0.05)


def test_pictures_of_normals_are_those_of_the_renderer():
    mesh, camera = ball(40, 0.7), AROUND[1]
    surface = Surface(mesh)
    picture = surface.picture(torch.from_numpy(mesh.vertices), camera, 64)
    true = render(mesh, camera, 64)
    inner = picture[..., 3] == 1
    found = 2 * picture[inner][:, :3] - 1
    assert float((found * true.normals[inner]).sum(1).mean()) > 0.995
    assert bool((picture[..., 3] >= 0).all())
    assert bool((picture[..., 3] <= 1).all())


def test_a_hidden_outline_changes_nothing():
    front = Mesh(ball(16, 0.5).vertices + np.array([0, 0, 0.4]), ball(16).faces)
    both = Mesh(
        np.concatenate([front.vertices, ball(16, 0.2).vertices - np.array([0, 0, 0.4])]),
        np.concatenate([front.faces, ball(16).faces + len(front.vertices)]),
    )
    camera = AROUND[0]
    one = Surface(front).picture(torch.from_numpy(front.vertices), camera, 48)
    two = Surface(both).picture(torch.from_numpy(both.vertices), camera, 48)
    assert torch.equal(one, two)


def test_smoothing_keeps_what_is_the_same_everywhere():
    smooth = Preconditioner(Surface(box()), 5.0)
    moved = torch.ones(8, 3, dtype=torch.float64)
    assert torch.allclose(smooth.solve(moved), moved)
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(smooth.solve(smooth.apply(x)), x)


def test_open_meshes_are_no_surfaces():
    with pytest.raises(ValueError, match="closed and manifold, got 3 edges"):
        Surface(Mesh(box().vertices, box().faces[1:]))


def test_a_hull_holds_the_body_and_no_more_than_its_outlines_say():
    hull = visual_hull(maps(box((-0.5, -0.4, -0.3), (0.5, 0.6, 0.4)))[1], AROUND, depth=6)
    # Seen along its sides with perspective, it is the box, and a little around it.
    assert np.allclose(hull.bounds, [[-0.5, -0.4, -0.3], [0.5, 0.6, 0.4]], atol=0.13)
    assert 0.7 < hull.volume < 0.95


def test_a_sphere_is_found_where_its_hull_is_not_one(sphere):
    assert certificate(sphere.mesh).passed
    assert off(sphere.mesh, 0.7) < 0.7 * off(sphere.hull, 0.7)
    assert sphere.errors[-1] < 0.6 * sphere.errors[0]


def test_a_box_is_found_where_its_hull_is_too_large():
    mesh = box((-0.5, -0.4, -0.3), (0.5, 0.6, 0.4))
    fused = fuse_normals(*maps(mesh), AROUND, QUICK)
    assert certificate(fused.mesh).passed
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)).double() * 1.4 - 0.7
    found, hull, true = (SignedDistance(m)(points) < 0 for m in (fused.mesh, fused.hull, mesh))
    share, before = (float((m & true).sum() / (m | true).sum()) for m in (found, hull))
    assert share > before + 0.05
    assert fused.errors[-1] < 0.6 * fused.errors[0]


def test_size_is_that_of_the_cameras():
    quick = FusionSettings(steps=(1,), depths=(5,), depth=5, size=32)
    near = fuse_normals(*maps(ball(40, 0.7), size=32), AROUND, quick).mesh
    far = fuse_normals(*maps(ball(40, 0.7), size=32), VIEWS, quick).mesh
    assert np.allclose(far.vertices, near.vertices * 1.5 / AROUND[0].distance, atol=1e-5)


def test_maps_that_do_not_go_together_are_refused():
    normals, masks = maps(ball(12, 0.6), size=32)
    with pytest.raises(ValueError, match="4 maps, 4 masks and 3 cameras"):
        fuse_normals(normals, masks, AROUND[:3])
    with pytest.raises(ValueError, match=r"map 0: only .* look at its camera"):
        fuse_normals(normals.roll(1, 0), masks, AROUND)
    with pytest.raises(ValueError, match="map 2 has no object"):
        fuse_normals(normals, masks * torch.tensor([1, 1, 0, 1])[:, None, None], AROUND)
    with pytest.raises(ValueError, match="values of length"):
        fuse_normals(normals / 3, masks, AROUND)
    up = Mesh(ball(12, 0.2).vertices + np.array([0, 0.6, 0]), ball(12).faces)
    one, other = maps(up, AROUND[:2], 32), maps(ball(12, 0.2), AROUND[2:], 32)
    pair = [torch.cat(each) for each in zip(one, other, strict=True)]
    with pytest.raises(ValueError, match="no point lies within the outlines of all views"):
        fuse_normals(*pair, AROUND)
    with pytest.raises(ValueError, match="steps and depths"):
        FusionSettings(steps=(1, 2, 3))


def stored(folder, mesh, cameras=AROUND, axes="world", alpha=True, size=48):
    """Write maps as pictures; return their paths."""
    paths = []
    for k, (normal, mask) in enumerate(zip(*maps(mesh, cameras, size), strict=True)):
        told = normal.numpy()
        if axes == "view":
            told = told @ cameras[k].axes.T
        elif axes == "generator":
            told = np.stack([-told[..., 2], told[..., 1], told[..., 0]], -1)
        colour = (told + 1) / 2 * mask.numpy()[..., None]
        parts = [colour, mask.numpy()[..., None]] if alpha else [colour]
        picture = np.round(np.concatenate(parts, -1) * 255).astype(np.uint8)
        paths.append(folder / f"{axes}_{k}.png")
        Image.fromarray(picture).save(paths[-1])
    return paths


@pytest.mark.parametrize("axes", ["world", "view", "generator"])
def test_pictures_are_read_in_any_axes(tmp_path, axes):
    mesh = ball(24, 0.6)
    found = read_normals(stored(tmp_path, mesh, axes=axes, alpha=axes == "world"), axes)
    normals, masks = maps(mesh, size=48)
    assert torch.equal(found.masks, masks)
    assert float((found.normals - normals)[masks > 0].abs().max()) < 0.01
    assert tuple(found.cameras) == VIEWS


def test_views_are_told_in_json(tmp_path):
    cameras = [Camera(0, 0, 40, 3.0), Camera(120, 20, 0), Camera(240, 0, 60, 2.0)]
    paths = stored(tmp_path, ball(24, 0.5), cameras)
    views = [
        {"file": p.name, "azimuth": c.azimuth, "elevation": c.elevation, "view": c.view}
        | ({"distance": c.away} if c.away else {})
        for p, c in zip(paths, cameras, strict=True)
    ]
    (tmp_path / "views.json").write_text(json.dumps({"views": views}))
    assert read_normals([tmp_path / "views.json"]).cameras == cameras


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "no list of views"),
        ('{"views": [{"azimuth": 1}]}', "no list of views"),
        ('{"views": [{"file": "a.png", "azimuth": "left"}]}', "view 0 has azimuth 'left'"),
        ('{"views": [{"file": "a.png", "fov": 40}]}', "view 0 has fov 40"),
        ('{"views": [{"file": "a.png", "view": 190}]}', "field of view of 190"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, text, told):
    (tmp_path / "views.json").write_text(text)
    with pytest.raises(ImageFileError, match=told):
        read_normals([tmp_path / "views.json"])


def test_the_command_writes_a_closed_mesh_and_answers_bad_input(capsys, tmp_path):
    paths = [str(path) for path in stored(tmp_path, ball(24, 0.7))]
    quick = ["--steps", "2", "--pixels", "32", "--depth", "5"]
    out = tmp_path / "ball.glb"
    assert main(["shape", "fuse", *paths, *quick, "--faces", "500", "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["certificate"]["passed"]
    assert told["certificate"]["faces"] <= 500
    mesh, _ = read_mesh(out)
    assert abs(off(mesh, 0.7 * 1.5 / AROUND[0].distance)) < 0.03
    Image.new("RGB", (64, 48)).save(tmp_path / "flat.png")
    for given, said in (
        (paths[:3], "got 3 pictures"),
        ([*paths[:3], str(tmp_path / "flat.png")], "64 x 48"),
        (paths[::-1], "look at its camera"),
        ([*paths[:3], str(tmp_path / "none.png")], "none.png"),
    ):
        assert main(["shape", "fuse", *given, "-o", str(tmp_path / "x.glb")]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x.glb").exists()
