"""A folder of prepared shapes: shards of samples, and the table beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectiflow.storage.prepared import Prepared

from rectiflow_shape.geometry import Mesh

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("name", "source", "class", "caption", "split", "repairs"), str),
    **dict.fromkeys(("faces", "parts"), int),
    **dict.fromkeys(("confidence", "sheets", "scale"), float),
}
"""Columns of ``metadata.csv``: ``confidence`` of the sign, the share of the area that are sheets,
``scale`` from the normalised shape to the file's units, and ``repairs`` in words."""


class PreparedShapes(Prepared):
    """What :func:`~rectiflow_shape.data.prepare` left in a folder.

    Records hold, of a shape normalised to a half extent of 0.95, y up, float32 unless said:

    - ``surface (p, 3)`` and ``normals (p, 3)`` float16: uniform on the surface, looking outward
    - ``near (q, 3)``, ``near_sdf (q,)``: around the surface
    - ``volume (r, 3)``, ``volume_sdf (r,)``: uniform in the box ±1.005
    - ``vertices (v, 3)``, ``faces (f, 3)`` int32: the repaired mesh
    - ``views (n, 3, s, s)`` uint8 and ``cameras (n, 4)``, if they were asked for: pictures on
      white, and azimuth, elevation, field of view (degrees, 0 for orthographic) and distance

    Signed distances are negative inside, and not truncated.
    """

    columns = COLUMNS
    unit = "shape"


def mesh_of(record: dict[str, Tensor]) -> Mesh:
    """Return the mesh of a record."""
    return Mesh(record["vertices"].double().numpy(), record["faces"].long().numpy())
