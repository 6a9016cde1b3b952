"""Normal maps as pictures, with the cameras that they were seen by.

::

    maps = read_normals(["front.png", "right.png", "back.png", "left.png"])
    maps = read_normals(["views.json"])

A list of views is JSON, files beside it:

    {"views": [{"file": "front.png", "azimuth": 0, "elevation": 0, "view": 60, "distance": 1.5}]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.storage.faults import storing
from torch import Tensor

from rectiflow_shape.fusion import VIEWS, check_map
from rectiflow_shape.io.errors import ImageFileError
from rectiflow_shape.io.image import opened
from rectiflow_shape.render import Camera

if TYPE_CHECKING:
    from jaxtyping import Float

AXES = ("world", "view", "generator")
"""In which axes normals are told: of the world, of each camera (right, up, towards it), or of
Direct2.5's generator, whose (x, y, z) is (z, y, -x) of the world."""

_GROUND = 0.05  # a pixel whose channels are all at most this is of the background
_NUMBERS = {"azimuth": 0.0, "elevation": 0.0, "view": 60.0, "distance": None}


@dataclass(frozen=True)
class NormalMaps:
    """Maps and their cameras.

    Attributes
    ----------
    normals : Tensor, shape (k, s, s, 3)
        In the world, -1 to 1.
    masks : Tensor, shape (k, s, s)
        How much of each pixel is covered.
    cameras : list of Camera
    """

    normals: Float[Tensor, "k s s 3"]
    masks: Float[Tensor, "k s s"]
    cameras: list[Camera]


def read_normals(paths: Sequence[str | Path], axes: str = "world") -> NormalMaps:
    """Read normal maps, stored as ``(n + 1) / 2``.

    Parameters
    ----------
    paths : sequence of str or Path
        Four pictures, seen as Direct2.5 does from azimuths 0 (from +z), 90 (from +x), 180 and 270;
        or one JSON with a list of views. The object is where alpha is, or, without alpha, where any
        channel is above 0.05.
    axes : str
        One of :data:`AXES`.

    Raises
    ------
    StorageError
        When the machine cannot read one.
    ImageFileError
        When a file is no picture or list of views, pictures are not square or of one size, or a
        picture is no map of normals that look at its camera.
    """
    if axes not in AXES:
        raise ValueError(f"axes must be one of {', '.join(AXES)}, got {axes!r}.")
    files = [Path(path) for path in paths]
    cameras = list(VIEWS)
    if len(files) == 1 and files[0].suffix.lower() == ".json":
        files, cameras = _listed(files[0])
    if len(files) != len(cameras):
        raise ValueError(
            f"got {len(files)} pictures; expected 4, from azimuths 0, 90, 180 and 270, or one JSON "
            'with {"views": [{"file": ..., "azimuth": ...}, ...]}.'
        )
    normals: list[Tensor] = []
    masks: list[Tensor] = []
    for file, camera in zip(files, cameras, strict=True):
        normal, mask = _read(file, camera, axes)
        if masks and mask.shape != masks[0].shape:
            found = f"it has {len(mask)} pixels a side where {files[0].name} has {len(masks[0])}"
            raise ImageFileError(file, found, "pictures of one size", "Render them alike.")
        try:
            check_map(normal, mask > 0.5, camera, "it")
        except ValueError as error:
            found, _, rest = str(error).partition("; expected ")
            raise ImageFileError(file, found, *_advice(rest)) from error
        normals.append(normal)
        masks.append(mask)
    return NormalMaps(torch.stack(normals), torch.stack(masks), cameras)


def _advice(rest: str) -> tuple[str, str]:
    expected, _, hint = rest.partition(". ")
    return expected.rstrip("."), hint or "Give the picture of this view."


def _read(path: Path, camera: Camera, axes: str) -> tuple[Tensor, Tensor]:
    image, _, _ = opened(path)
    if image.width != image.height:
        found = f"it has {image.width} x {image.height} pixels"
        raise ImageFileError(path, found, "a square", "Render it as one.")
    values = torch.from_numpy(np.asarray(image.convert("RGBA")).astype(np.float32) / 255)
    colour, alpha = values[..., :3], values[..., 3]
    if bool((alpha == 1).all()):
        alpha = (colour > _GROUND).any(-1).float()
    normal = 2 * colour - 1
    if axes == "view":
        normal = normal @ torch.from_numpy(camera.axes).float()
    elif axes == "generator":
        x, y, z = normal.unbind(-1)
        normal = torch.stack([z, y, -x], -1)
    return normal, alpha


def _listed(path: Path) -> tuple[list[Path], list[Camera]]:
    """Read a list of views."""
    with storing(path):
        text = path.read_bytes()
    form = '{"views": [{"file": "front.png", "azimuth": 0}, ...]}'
    try:
        views = json.loads(text)["views"]
        files = [path.parent / view["file"] for view in views]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"it is no list of views ({type(error).__name__}: {error})"
        raise ImageFileError(path, found, form, "Write it as that.") from error
    return files, [_camera(path, k, view) for k, view in enumerate(views)]


def _camera(path: Path, k: int, view: Mapping[str, Any]) -> Camera:
    odd = sorted(set(view) - {"file", *_NUMBERS})
    told = {name: view.get(name, default) for name, default in _NUMBERS.items()}
    wrong = [
        name
        for name, x in told.items()
        if not (x is None and name == "distance")
        and (isinstance(x, bool) or not isinstance(x, int | float) or not abs(x) < 1e6)
    ]
    if odd or wrong:
        name = (odd + wrong)[0]
        found = f"view {k} has {name} {view[name]!r}"
        raise ImageFileError(path, found, f"numbers {', '.join(_NUMBERS)}", "Correct it.")
    distance = told.pop("distance")
    if not 0 <= told["view"] < 170 or (distance is not None and distance <= 0):
        found = f"view {k} has a field of view of {told['view']:g} and distance {distance}"
        expected = "0 (orthographic) to 170 degrees, and a distance above 0"
        raise ImageFileError(path, found, expected, "Correct it.")
    return Camera(**told, away=distance)
