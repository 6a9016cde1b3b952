"""The numbers of a mosaic: where its grids are, how large, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rectiflow.storage.files import write_tensors
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

_NAMES = ("centres", "scales", "values")


@dataclass(frozen=True)
class Mosaic:
    """A set of grids; their order means nothing.

    Attributes
    ----------
    centres : Tensor, shape (n, 3)
        In the unit of the shape.
    scales : Tensor, shape (n,)
        Half the side of each cube, positive.
    values : Tensor, shape (n, k, k, k)
        Signed distances, negative inside, at the points ``centre + scale * u`` where u runs over
        ``-1 + 2 j / (k - 1)`` along x, y and z: the ends are on the faces of the cube.

    References
    ----------
    Yariv et al., "Mosaic-SDF for 3D Generative Models" (CVPR 2024).
    """

    centres: Tensor
    scales: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        n, k = len(self.centres), self.values.shape[-1]
        shapes = ((n, 3), (n,), (n, k, k, k))
        found = tuple(tuple(getattr(self, name).shape) for name in _NAMES)
        if found != shapes or n < 1 or k < 2:
            raise ValueError(
                f"a mosaic has centres (n, 3), scales (n,) and values (n, k, k, k) with k >= 2, "
                f"got {found}."
            )

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def resolution(self) -> int:
        """Return the number of values along an edge."""
        return self.values.shape[-1]

    @property
    def numbers(self) -> int:
        """Return how many numbers there are in all."""
        return len(self) * (4 + self.resolution**3)

    def to(self, device: torch.device | str) -> Mosaic:
        """Return the mosaic on a device."""
        return Mosaic(*(getattr(self, name).to(device) for name in _NAMES))

    def lattice(self) -> Float[Tensor, "n k3 3"]:
        """Return the places of all values, x slowest and z fastest."""
        return places(self.centres, self.scales, self.resolution)

    def boxes(self) -> tuple[Float[Tensor, "v 3"], Tensor]:
        """Return vertices and triangles of all cubes, to be looked at."""
        corners = places(self.centres, self.scales, 2)
        start = 8 * torch.arange(len(self), device=corners.device)[:, None, None]
        faces = torch.tensor(_FACES, device=corners.device) + start
        return corners.flatten(0, 1), faces.flatten(0, 1)


def places(
    centres: Float[Tensor, "n 3"], scales: Float[Tensor, " n"], k: int
) -> Float[Tensor, "n k3 3"]:
    """Return the lattice points of cubes."""
    axis = torch.linspace(-1, 1, k, dtype=centres.dtype, device=centres.device)
    unit = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    return centres[:, None] + scales[:, None, None] * unit


def write_mosaic(path: Path | str, mosaic: Mosaic) -> None:
    """Write a mosaic as safetensors."""
    tensors = {name: getattr(mosaic, name).detach().cpu().contiguous() for name in _NAMES}
    write_tensors(Path(path), tensors, {"format": "pt", "kind": "mosaic-sdf"})


def read_mosaic(path: Path | str) -> Mosaic:
    """Read what :func:`write_mosaic` wrote.

    Raises
    ------
    CheckpointError
        When the file does not hold a mosaic.
    """
    tensors = load_tensors(path)
    if set(tensors) != set(_NAMES):
        raise CheckpointError(
            path, f"holds {sorted(tensors)}, expected {sorted(_NAMES)}. Make one with `fit`"
        )
    try:
        mosaic = Mosaic(**{name: tensors[name].float() for name in _NAMES})
    except (ValueError, IndexError) as error:
        raise CheckpointError(path, f"is damaged ({error})") from error
    if not all(bool(torch.isfinite(tensors[name]).all()) for name in _NAMES):
        raise CheckpointError(path, "holds NaN or infinity; expected numbers")
    if not bool((mosaic.scales > 0).all()):
        raise CheckpointError(path, "has cubes without a size; expected positive scales")
    return mosaic


_FACES = (
    *((0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)),
    *((2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)),
)
