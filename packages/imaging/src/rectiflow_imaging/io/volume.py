"""A volume with its place in space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.faults import FileError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class VolumeFileError(FileError):
    """An image could not be used; see :class:`rectiflow.storage.faults.FileError`."""


@dataclass(frozen=True)
class Volume:
    """Slices of an image, in the units of its file.

    Attributes
    ----------
    values : ndarray, shape (z, y, x)
        float32, finite. One slice of a flat image.
    affine : ndarray, shape (4, 4), optional
        From an index ``(z, y, x, 1)`` to millimetres toward the patient's left, back and head
        (DICOM's LPS); absent where the file does not tell.
    notes : tuple of str
        What a user should know.
    labels : ndarray, shape (z, y, x), optional
        Which structure a voxel is of, where an NPZ holds it.
    """

    values: Float[np.ndarray, "z y x"]
    affine: Float[np.ndarray, "4 4"] | None = None
    notes: tuple[str, ...] = ()
    labels: Int[np.ndarray, "z y x"] | None = None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Millimetres between slices, rows and columns."""
        if self.affine is None:
            return None
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def orientation(self) -> str:
        """Toward what slices, rows and columns run: of left, right, back, front, head and feet."""
        if self.affine is None:
            return "unknown"
        names = np.array([["right", "left"], ["front", "back"], ["feet", "head"]])
        told = []
        for column in self.affine[:3, :3].T:
            axis = int(np.abs(column).argmax())
            told.append(str(names[axis, int(column[axis] > 0)]))
        return ", ".join(told)

    def like(self, values: Any) -> Volume:
        """Return other values at the same places."""
        return replace(self, values=np.asarray(values, np.float32), notes=(), labels=None)

    def describe(self) -> dict[str, Any]:
        """Return what a result tells of it."""
        return {
            "shape": list(self.values.shape),
            "spacing_mm": None if self.spacing is None else [round(s, 6) for s in self.spacing],
            "orientation": self.orientation,
            "notes": list(self.notes),
        }
