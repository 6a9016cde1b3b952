"""Pictures of any mode become an object on white, or are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from rectiflow_shape.io import ImageFileError, official_rule, pixels, read_image

RED = (200, 30, 40)


def picture(size=(120, 80), box=(30, 20, 70, 60), colour=RED, ground=(255, 255, 255), mode="RGB"):
    """Return a picture of a plate on a ground."""
    image = Image.new("RGB", size, ground)
    image.paste(colour, box)
    return image.convert(mode)


def with_alpha(image, box=(30, 20, 70, 60), ground=0):
    alpha = Image.new("L", image.size, ground)
    alpha.paste(255, box)
    image = image.convert("RGB")
    image.putalpha(alpha)
    return image


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("image", "name", "tolerance"),
    [
        (picture(), "a.png", 0),
        (picture(ground=(90, 120, 90)), "a.png", 0),
        (with_alpha(picture(ground=(0, 255, 0))), "a.png", 0),
        (picture(mode="CMYK"), "a.jpg", 3),
        (picture(mode="P"), "a.png", 3),
        (with_alpha(picture(ground=(0, 0, 0))).quantize(8), "a.png", 3),
        (with_alpha(picture()), "a.webp", 3),
    ],
)
def test_the_object_stands_on_white_in_a_square(tmp_path, image, name, tolerance):
    options = {"lossless": True} if name.endswith("webp") else {}
    photo = read_image(saved(tmp_path, image, name, **options))
    assert photo.size == (120, 80)
    np.testing.assert_allclose(photo.box, (30, 20, 70, 60), atol=min(tolerance, 2))
    assert abs(len(photo.square) - 48) <= tolerance
    np.testing.assert_allclose(photo.upright[5, 5], 255, atol=tolerance)
    middle = photo.square[len(photo.square) // 2, len(photo.square) // 2]
    np.testing.assert_allclose(middle.astype(int), RED, atol=40 if tolerance else 0)
    assert photo.notes == ()


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    image = with_alpha(picture(ground=(0, 255, 0)))
    values = np.asarray(image).copy()
    values[40:60, 50:70] = (20, 30, 200, 128)
    photo = read_image(saved(tmp_path, Image.fromarray(values)))
    np.testing.assert_allclose(photo.upright[50, 60].astype(int), (137, 142, 227), atol=1)


def test_orientation_depth_and_animation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(saved(tmp_path, picture(), "a.jpg", exif=exif, quality=95))
    assert turned.size == (80, 120)
    np.testing.assert_allclose(turned.box, (20, 30, 60, 70), atol=2)
    grey = np.full((80, 100), 65535, np.uint16)
    grey[20:60, 30:80] = 20000
    deep = read_image(saved(tmp_path, Image.fromarray(grey)))
    assert deep.box == (30, 20, 80, 60)
    assert deep.upright[40, 50].tolist() == [78] * 3
    frames = [with_alpha(picture()), with_alpha(picture(colour=(0, 0, 255)))]
    path = saved(
        tmp_path, frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True
    )
    assert "first of 2 frames" in read_image(path).notes[0]


def test_small_objects_and_the_official_rule(tmp_path):
    box = (90, 95, 100, 108)
    path = saved(tmp_path, with_alpha(picture((200, 200), box, ground=(0, 0, 0)), box))
    assert read_image(path).box == box
    seen = []

    def matting(colour):
        seen.append(colour.shape)
        return np.full(colour.shape[:2], 255, np.uint8)

    whole = read_image(path, trusts=official_rule, matting=matting)
    assert seen == [(200, 200, 3)]
    assert whole.box == (0, 0, 200, 200)


def test_objects_at_the_border_keep_a_margin_and_are_told(tmp_path):
    box = (0, 40, 50, 100)
    photo = read_image(saved(tmp_path, with_alpha(picture((100, 100), box), box)))
    assert photo.notes == ("the object is cut by the left and lower border of the picture",)
    assert len(photo.square) == 72
    assert photo.square[:6].min() == 255


def test_large_pictures_are_scaled_and_too_large_ones_refused(tmp_path):
    photo = read_image(saved(tmp_path, picture((4000, 3000), (1000, 1000, 2000, 2500))))
    assert max(photo.upright.shape) == 2000
    assert photo.size == (4000, 3000)
    np.testing.assert_allclose(photo.box, (1000, 1000, 2000, 2500), atol=2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (with_alpha(picture(), (0, 0, 0, 0)), "it is transparent throughout"),
        (Image.new("RGB", (1, 1)), "it is too small, 1 x 1 pixels"),
        (Image.new("1", (13_000, 10_000)), "it is too large, 13000 x 10000"),
        (Image.new("RGB", (50, 50), "white"), "it has no foreground"),
        (
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)),
            "its background is neither transparent nor plain",
        ),
    ],
)
def test_what_shows_no_object_is_refused(tmp_path, image, message):
    with pytest.raises(ImageFileError, match=message):
        read_image(saved(tmp_path, image))


def test_what_is_no_picture_is_refused(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"text")
    with pytest.raises(ImageFileError, match="it cannot be read"):
        read_image(path)
    whole = saved(tmp_path, picture((300, 300)), "b.png").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageFileError, match=r"it (is cut short|cannot be read)"):
        read_image(path)
    with pytest.raises(OSError, match="no such file"):
        read_image(tmp_path / "nowhere.png")


def test_pixels_are_scaled_cropped_and_normalised(tmp_path):
    values = pixels(read_image(saved(tmp_path, picture(colour=(0, 0, 0)))))
    assert values.shape == (3, 224, 224)
    white = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(values[:, 2, 2], white)
    torch.testing.assert_close(values[:, 112, 112], white - 1 / torch.tensor([0.229, 0.224, 0.225]))
