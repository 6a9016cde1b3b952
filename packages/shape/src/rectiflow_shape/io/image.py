"""Pictures prepared as a condition: upright, on white, the object in the middle of a square.

::

    photo = read_image("chair.png")
    photo.square            # uint8 (s, s, 3), for the user to look at
    pixels(photo)           # (3, 224, 224), for DINOv2
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from rectiflow.storage.faults import storing
from torch import Tensor

from rectiflow_shape.io.errors import ImageFileError

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from PIL import Image

    Alpha = UInt8[np.ndarray, "h w"]
    Matting = Callable[[UInt8[np.ndarray, "h w 3"]], Alpha]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")

_LONGEST = 2000  # px, as the official script has it
_SHORTEST = 16  # px of a side
_MOST = 120_000_000  # px that are decoded at all
_MARGIN = 0.1  # of the longer side, on each end
_PLAIN = 24  # of 255: a background varies by less, an object differs by more
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_SCALED, _CROPPED = 256, 224  # px, of the released feature extractor


@dataclass(frozen=True)
class Photo:
    """A picture, and its object.

    Attributes
    ----------
    upright : ndarray, shape (h, w, 3)
        uint8, on white, its longer side at most 2000.
    size : tuple of int
        Width and height in the file, upright.
    box : tuple of int
        Left, top, right and bottom of the object in the file's pixels; the last two not included.
    square : ndarray, shape (s, s, 3)
        The object with a white margin.
    notes : tuple of str
        What a user should know.
    """

    upright: UInt8[np.ndarray, "h w 3"]
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    square: UInt8[np.ndarray, "s s 3"]
    notes: tuple[str, ...]


def varies(alpha: Alpha) -> bool:
    """Trust any alpha that is not one value throughout; our rule."""
    return int(alpha.min()) < int(alpha.max())


def official_rule(alpha: Alpha) -> bool:
    """Trust alpha if 1 % of the pixels each are in the first and last of 20 bins; for parity."""
    counts, _ = np.histogram(alpha, 20, (0, 255))
    return bool(min(counts[0], counts[-1]) >= 0.01 * alpha.size)


def read_image(
    path: str | Path,
    *,
    trusts: Callable[[Alpha], bool] = varies,
    matting: Matting | None = None,
) -> Photo:
    """Read a picture and cut its object out.

    The object is where alpha is above 0, if alpha is trusted; else what ``matting`` returns; else
    what differs from a plain background, which becomes white.

    Parameters
    ----------
    path : str or Path
        PNG, JPEG, WebP, BMP, TIFF or GIF, of any mode: 16 bit, CMYK, palette; its EXIF
        orientation is applied, of an animation the first frame is taken.
    trusts : callable, default varies
        :func:`official_rule` for parity with the authors' script.
    matting : callable, optional
        Maps RGB ``(h, w, 3)`` to alpha ``(h, w)``, both uint8. None is shipped: the authors' own
        is not free for commercial use.

    Raises
    ------
    StorageError
        When the machine cannot read it.
    ImageFileError
        When it is no picture, too large or too small, has no object, or its background is not
        plain.
    """
    path = Path(path)
    image, size, notes = opened(path)
    pixels = np.asarray(image.convert("RGBA"))
    colour, alpha = pixels[..., :3], pixels[..., 3]
    if not alpha.any():
        _refuse(path, "it is transparent throughout", "an object", "Export it with its object.")
    if alpha.min() == 255 or not trusts(alpha):
        if matting is not None:
            alpha = np.asarray(matting(colour), np.uint8)
        else:
            alpha = _differing(path, colour)
    share = alpha[..., None] / 255
    white = np.round(colour * share + 255 * (1 - share)).astype(np.uint8)
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if not len(rows):
        _refuse(path, "it has no foreground", "an object", "Use another picture.")
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    touched = [
        name
        for name, is_cut in zip(
            ("left", "top", "right", "lower"),
            (left == 0, top == 0, right == alpha.shape[1], bottom == alpha.shape[0]),
            strict=True,
        )
        if is_cut
    ]
    if touched:
        notes.append(f"the object is cut by the {' and '.join(touched)} border of the picture")
    scale = max(size) / max(image.size)
    box = tuple(round(int(k) * scale) for k in (left, top, right, bottom))
    square = _square(white[top:bottom, left:right])
    return Photo(white, size, box, square, tuple(notes))  # type: ignore[arg-type]


def pixels(photo: Photo) -> Float[Tensor, "3 224 224"]:
    """Return what DINOv2 sees: 256 px bicubic, the middle 224 px, normalised as ImageNet is."""
    return _seen(photo.square)


def pixels_of_view(view: UInt8[Tensor, "3 s s"]) -> Float[Tensor, "3 224 224"]:
    """Return the same of a rendered picture on white, cut out as that of a user is."""
    colour = np.asarray(view.permute(1, 2, 0))
    there = np.any(colour < 255, axis=2)
    rows, columns = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    if not len(rows):
        raise ValueError("a view is white throughout; expected a picture of a shape.")
    return _seen(_square(colour[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))


def _seen(square: UInt8[np.ndarray, "s s 3"]) -> Float[Tensor, "3 224 224"]:
    from PIL import Image

    small = Image.fromarray(square).resize((_SCALED, _SCALED), Image.Resampling.BICUBIC)
    edge = (_SCALED - _CROPPED) // 2
    middle = np.asarray(small)[edge : edge + _CROPPED, edge : edge + _CROPPED].copy()
    values = torch.from_numpy(middle).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_STD)[:, None, None]


def opened(path: Path) -> tuple[Image.Image, tuple[int, int], list[str]]:
    """Return a picture upright, in 8 bits and small enough, its size in the file, and notes."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    notes = []
    try:
        with storing(path), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Any = Image.open(path)
            _check_size(path, *image.size)
            if getattr(image, "n_frames", 1) > 1:
                notes.append(f"the first of {image.n_frames} frames of an animation is taken")
            if image.mode[0] == "I":  # 16 bits, which Pillow would clip
                high = np.asarray(image).astype(np.float64)
                image = Image.fromarray(np.round(high / 257).clip(0, 255).astype(np.uint8))
            image = ImageOps.exif_transpose(image)
            size = image.size
            if max(size) > _LONGEST:
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
                factor = _LONGEST / max(size)
                small = tuple(max(1, round(side * factor)) for side in size)
                image = image.resize(small, Image.Resampling.BOX)
            else:
                image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        if isinstance(error, ImageFileError):
            raise
        _refuse(path, f"it cannot be read ({error})", "a picture", "Export it as PNG.")
    except OSError as error:
        if error.errno is not None:
            raise
        _refuse(path, f"it is cut short ({error})", "a whole picture", "Copy it again.")
    return image, size, notes


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < _SHORTEST:
        _refuse(
            path,
            f"it is too small, {width} x {height} pixels",
            f"at least {_SHORTEST} a side",
            "Use a larger picture.",
        )
    if width * height > _MOST:
        _refuse(
            path,
            f"it is too large, {width} x {height} pixels",
            f"at most {_MOST // 10**6} million",
            f"Scale it down; {_LONGEST} pixels of its longer side are used.",
        )


def _differing(path: Path, colour: UInt8[np.ndarray, "h w 3"]) -> Alpha:
    """Return where a picture differs from the plain colour of its border."""
    sides = (colour[0], colour[-1], colour[:, 0], colour[:, -1])
    border = np.concatenate(sides).astype(int)
    ground = np.median(border, axis=0)
    if (np.abs(border - ground).max(1) > _PLAIN).mean() > 0.5:
        _refuse(
            path,
            "its background is neither transparent nor plain",
            "an object with alpha, or on one colour",
            "Cut it out first, or give matting=.",
        )
    return np.where(np.abs(colour - ground).max(2) > _PLAIN, 255, 0).astype(np.uint8)


def _square(cut: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "s s 3"]:
    """Put an object in the middle of a white square, 10 % of its longer side on each end."""
    height, width = cut.shape[:2]
    side = max(height, width)
    side += 2 * int(_MARGIN * side)
    square = np.full((side, side, 3), 255, np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = cut
    return square


def _refuse(path: Path, found: str, expected: str, hint: str) -> NoReturn:
    raise ImageFileError(path, found, expected, hint)
