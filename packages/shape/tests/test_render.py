"""Pictures of meshes: where things are, how far, and which way they look."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rectiflow_shape.geometry import Mesh
from rectiflow_shape.geometry.solids import ball, box, joined
from rectiflow_shape.render import Camera, contact_sheet, random_cameras, render


@pytest.mark.parametrize("view", [0.0, 40.0])
def test_a_ball_is_a_disc_with_its_own_depth_and_normals(view):
    camera = Camera(25, 10, view)
    picture = render(ball(40, 0.8), camera, 64)
    far = camera.distance
    edge = math.tan(math.asin(0.8 / far)) / math.tan(math.radians(view) / 2) if view else 0.8 / 1.15
    y, x = torch.meshgrid(*[(torch.arange(64) + 0.5) / 32 - 1] * 2, indexing="ij")
    disc = (x**2 + y**2).sqrt() < edge
    assert float((picture.mask == disc).double().mean()) > 0.98
    assert float(picture.depth[32, 32]) == pytest.approx(far - 0.8, abs=0.01)
    assert bool(picture.depth[0, 0].isinf())
    toward = torch.tensor(camera.axes[2]).float()
    assert float(picture.normals[32, 32] @ toward) > 0.99
    assert picture.colour[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("camera", "right"), [(Camera(0, 0, 0), 0), (Camera(90, 0, 0), 2), (Camera(0, 90, 0), 0)]
)
def test_cameras_look_from_where_they_are(camera, right):
    mark = np.zeros(3)
    mark[right] = 0.6 if camera.azimuth == 0 else -0.6
    small = Mesh(ball(6, 0.1).vertices + mark, ball(6).faces)
    columns = render(small, camera, 48).mask.any(0).nonzero()
    assert columns.min() > 24


def test_the_nearer_face_hides_the_farther():
    near, far = box((-0.5, -0.5, 0.4), (0.5, 0.5, 0.5)), box((-0.9, -0.9, -0.5), (0.9, 0.9, -0.4))
    picture = render(joined(far, near), Camera(0, 0, 0), 32)
    assert float(picture.depth[16, 16]) == pytest.approx(3.5)
    assert float(picture.depth[16, 5]) == pytest.approx(4.4)


def test_cameras_are_drawn_in_front_and_repeat():
    cameras = random_cameras(200, torch.Generator().manual_seed(0))
    assert cameras == random_cameras(200, torch.Generator().manual_seed(0))
    azimuth, elevation, view, _ = np.array([camera.numbers for camera in cameras]).T
    assert (np.abs(azimuth) <= 90).all()
    assert elevation.min() >= -15
    assert elevation.max() <= 30
    assert 0.08 < (view == 0).mean() < 0.27


def test_sheets_lay_pictures_in_rows():
    pictures = [torch.full((4, 4, 3), k, dtype=torch.uint8) for k in range(3)]
    sheet = contact_sheet(pictures, 2)
    assert sheet.shape == (8, 8, 3)
    assert sheet[::4, ::4, 0].tolist() == [[0, 1], [2, 255]]
