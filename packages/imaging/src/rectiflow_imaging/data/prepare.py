"""Files of images to shards: square slices, or cubes, of one side and of values in [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from rectiflow.storage.faults import FileError
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Judged, Preparation, Report, Running, split_rows
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.splits import DEFAULT_FRACTIONS
from torch import Tensor
from torch.nn import functional

from rectiflow_imaging.io import SUFFIXES, Volume, read_volume

_EMPTY = 0.02  # share of pixels above the least value under which a slice shows nothing


class PreparedImages(Prepared):
    """Records hold ``x1 (1, s, s)``, or ``(1, s, s, s)``, float32 in [-1, 1].

    ``low`` and ``high`` are the values of the file that became -1 and 1; slices of one file are in
    one split.
    """

    columns = {  # noqa: RUF012 - as its base has it
        **dict.fromkeys(("name", "source", "split", "spacing", "orientation"), str),
        "slice": int,
        "low": float,
        "high": float,
    }
    unit = "image"


@dataclass(frozen=True)
class Fit:
    """How images become squares or cubes of one side, and how they came there.

    Attributes
    ----------
    side : int
    low, high : float
        Values that become -1 and 1.
    """

    side: int
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray, side: int) -> Fit:
        """Return that of a volume: its 0.1st and 99.9th hundredth are the ends."""
        low, high = (float(v) for v in np.percentile(values, (0.1, 99.9)))
        if not high > low:
            low, high = float(values.min()), float(values.max())
        return cls(side, low, high)

    def scaled(self, values: Tensor) -> Tensor:
        """Return values in [-1, 1]."""
        span = self.high - self.low or 1.0
        return (2 * (values - self.low) / span - 1).clamp(-1, 1)

    def restored(self, values: Tensor) -> Tensor:
        """Return values in the units of the file."""
        return self.low + (values + 1) / 2 * (self.high - self.low)

    def squares(self, volume: Volume) -> Tensor:
        """Return slices ``(z, 1, s, s)`` in [-1, 1], padded to squares by the least value."""
        x = torch.from_numpy(volume.values)[:, None]
        high, wide = x.shape[2:]
        most = max(high, wide)
        top, left = (most - high) // 2, (most - wide) // 2
        edges = (left, most - wide - left, top, most - high - top)
        x = functional.pad(x, edges, value=self.low)
        if most != self.side:
            x = functional.interpolate(x, size=[self.side] * 2, mode="bilinear", antialias=True)
        return self.scaled(x)

    def cube(self, volume: Volume) -> Tensor:
        """Return a volume ``(1, s, s, s)`` likewise, stretched along its slices."""
        x = self.squares(volume).movedim(0, 1)[None]
        return functional.interpolate(x, size=[self.side] * 3, mode="trilinear")[0]


def padded_to(values: np.ndarray, side: int, axes: int) -> np.ndarray:
    """Pad slices to squares, or a volume to a cube, by the least value."""
    wanted = (side if axes == 3 else values.shape[0], side, side)
    gaps = [(w - n) for w, n in zip(wanted, values.shape, strict=True)]
    edges = [(gap // 2, gap - gap // 2) for gap in gaps]
    return np.pad(values, edges, constant_values=values.min())


def cropped_to(volume: Volume, values: Tensor) -> Volume:
    """Undo the padding."""
    whole = values[:, 0] if len(values) > 1 or values.ndim == 4 else values[0, 0]
    cuts = [
        slice((n - m) // 2, (n - m) // 2 + m)
        for n, m in zip(whole.shape, volume.values.shape, strict=True)
    ]
    return volume.like(whole[tuple(cuts)].numpy())


def prepare(
    folder: Path | str,
    out: Path | str,
    *,
    side: int = 48,
    cubes: bool = False,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Turn a folder of images into shards.

    Parameters
    ----------
    folder : Path or str
        Files that :func:`rectiflow_imaging.io.read_volume` reads, and folders of DICOM series.
    out : Path or str
    side : int
        Of the squares or cubes.
    cubes : bool, default False
        Keep volumes whole, for a network in three dimensions.
    fractions, seed
        Shares of train, valid and test, by a hash of a file's name.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.
    """
    source, out = places(folder, out, "images")
    files = sorted(
        path
        for path in source.iterdir()
        if not path.name.startswith(".") and (path.is_dir() or path.name.lower().endswith(SUFFIXES))
    )
    settings = {"kind": "images", "side": side, "cubes": cubes, "seed": seed}
    settings |= {"inputs": [path.name for path in files], "fractions": dict(fractions)}
    made = Preparation(
        "image",
        PreparedImages.columns,
        ("file", "reason"),
        partial(_judge, side=side, cubes=cubes),
        partial(split_rows, fractions=fractions, seed=seed, by="source"),
        settings,
    )
    return made.run(files, out, **run)


def _judge(path: Path, *, side: int, cubes: bool) -> Judged:
    try:
        volume = read_volume(path)
    except FileError as error:
        return Judged(refused=[{"file": path.name, "reason": error.reason}])
    fit = Fit.of(volume.values, side)
    told = {
        "source": path.name,
        "spacing": " ".join(f"{s:g}" for s in volume.spacing or ()),
        "orientation": volume.orientation,
        "low": fit.low,
        "high": fit.high,
    }
    stem = path.name.partition(".")[0]
    if cubes:
        if len(volume.values) < 8:
            reason = f"it has {len(volume.values)} slices; expected 8 or more for a cube"
            return Judged(refused=[{"file": path.name, "reason": reason}])
        return Judged([({"x1": fit.cube(volume)}, {"name": stem, "slice": 0, **told})])
    found = Judged()
    for i, x in enumerate(fit.squares(volume)):
        if (x > -0.95).float().mean() < _EMPTY:
            reason = f"slice {i} shows nothing; expected structure"
            found.refused.append({"file": path.name, "reason": reason})
        else:
            row = {"name": f"{stem}_{i:03d}", "slice": i, **told}
            found.accepted.append(({"x1": x.clone()}, row))
    return found
