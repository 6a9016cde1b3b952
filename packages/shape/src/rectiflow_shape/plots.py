"""Figures: contact sheets of meshes, and reconstruction error against the size of a mosaic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rectiflow.storage.files import whole_file

from rectiflow_shape.geometry import Mesh
from rectiflow_shape.render import contact_sheet, render


def save_sheet(
    meshes: Sequence[Mesh], path: Path | str, *, columns: int = 8, size: int = 160
) -> Path:
    """Draw meshes beside each other into a PNG.

    Parameters
    ----------
    meshes : sequence of Mesh
        Normalised, y up.
    path : Path or str
    columns, size : int
        Pictures in a row, and pixels along the side of each.
    """
    from PIL import Image

    pictures = [render(mesh, size=size).colour for mesh in meshes]
    sheet = contact_sheet(pictures, min(columns, len(pictures)))
    with whole_file(path) as part:
        Image.fromarray(sheet.numpy()).save(part, format="PNG")
    return Path(path)
