"""What the pipelines return: images at their places, with what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectiflow.results import Result

from rectiflow_imaging.io import Volume, write_volume


@dataclass(frozen=True)
class ImageResult(Result):
    """Images by name.

    Attributes
    ----------
    volumes : dict of Volume
        By name.
    measured : dict
        By name: what a row tells beside the image itself.
    warnings : list of str
        What a user should know.
    """

    volumes: dict[str, Volume]
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write each image, as NPZ if no other format is asked for."""
        rows = []
        for name, volume in self.volumes.items():
            path = write_volume(folder / f"{name}{suffix or '.npz'}", volume)
            told = {**volume.describe(), **self.measured.get(name, {})}
            rows.append({"name": name, "files": [path.name], **told})
        return rows
