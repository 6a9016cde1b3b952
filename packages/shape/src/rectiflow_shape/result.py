"""What a call returns, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectiflow.results import Result
from torch import Tensor

from rectiflow_shape.geometry import Mesh

GLB = ".glb"


@dataclass(frozen=True)
class ShapeSample:
    """One shape.

    Attributes
    ----------
    name : str
        Of its file.
    mesh : Mesh
        Watertight and manifold, looking outward.
    tokens : Tensor, shape (n, c)
        What its field is made of: latents, or a mosaic's tokens.
    told : dict
        What was asked for, the certificate, queries and the like, as plain data.
    """

    name: str
    mesh: Mesh
    tokens: Tensor
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShapeResult(Result):
    """Shapes and how they were made.

    Attributes
    ----------
    samples : list of ShapeSample
    """

    samples: list[ShapeSample]

    def write(self, folder: Path, suffix: str = "", **options: Any) -> list[dict[str, Any]]:
        """Write a mesh each; options are those of :func:`rectiflow_shape.io.write_mesh`."""
        from rectiflow_shape.io import write_mesh

        rows = []
        for sample in self.samples:
            name = f"{sample.name}{suffix or GLB}"
            write_mesh(folder / name, sample.mesh, **options)
            rows.append({"name": sample.name, "files": [name], **sample.told})
        return rows


def sample_name(index: int) -> str:
    """Return the name of a sample.

    Examples
    --------
    >>> sample_name(7)
    'shape_0007'
    """
    return f"shape_{index:04d}"
