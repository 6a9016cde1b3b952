"""What sensors in a flow have read: where, when, and of which field."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.mesh import Mesh
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.trajectory import FIELDS, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Readings:
    """Numbers that sensors read; sensors that move have another place in each.

    Attributes
    ----------
    places : ndarray, shape (m, 2)
        Metres.
    times : ndarray, shape (m,)
        Seconds after the first frame.
    which : ndarray, shape (m,)
        Index of the field in u, v, p.
    values : ndarray, shape (m,)
        m/s; for pressure over density m²/s².

    Raises
    ------
    ValueError
        If a number is not finite, or there is none.
    """

    places: Float[np.ndarray, "m 2"]
    times: Float[np.ndarray, " m"]
    which: Int[np.ndarray, " m"]
    values: Float[np.ndarray, " m"]

    def __post_init__(self) -> None:
        if not len(self.values):
            raise ValueError("there are no readings; expected at least one.")
        for name in ("places", "times", "values"):
            bad = ~np.isfinite(getattr(self, name)).reshape(len(self.values), -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{name} of readings must be finite, got {int(bad.sum())} that are not, the "
                    f"first in reading {int(bad.argmax())}. Leave out what was not measured."
                )

    def of(self, chosen: Bool[np.ndarray, " m"]) -> Readings:
        """Return some of the readings."""
        return Readings(
            self.places[chosen], self.times[chosen], self.which[chosen], self.values[chosen]
        )

    def checked(self, mesh: Mesh, duration: float) -> Readings:
        """Return the readings if all lie inside of a mesh and of the time of a simulation.

        Raises
        ------
        ValueError
            If one does not.
        """
        outside = interpolation(mesh, self.places).outside
        if outside.any():
            first = self.places[outside.argmax()]
            raise ValueError(
                f"{len(np.unique(self.places[outside], axis=0))} sensors are outside of the mesh, "
                f"the first at ({first[0]:.4g}, {first[1]:.4g}) m; expected places in the fluid."
            )
        off = (self.times < -1e-9) | (self.times > duration + 1e-9)
        if off.any():
            raise ValueError(
                f"{int(off.sum())} readings are at times outside of the simulation, the first at "
                f"{self.times[off.argmax()]:.4g} s; expected 0 to {duration:.4g} s."
            )
        return self


def read_readings(path: Path | str) -> Readings:
    """Read a table: columns ``x, y, t`` and any of ``u, v, p``; an empty cell was not measured.

    Raises
    ------
    ValueError
        If columns are missing, or a cell is no number.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        names = [name.strip() for name in table.fieldnames or ()]
        fields = [name for name in FIELDS if name in names]
        if missing := [name for name in ("x", "y", "t") if name not in names]:
            raise ValueError(f"{path} has no column {', '.join(missing)}; expected x, y, t and u.")
        if not fields:
            raise ValueError(f"{path} has no column of a field; expected some of {FIELDS}.")
        table.fieldnames = names
        rows = []
        for line, row in enumerate(table, start=2):
            try:
                x, y, t = (float(row[name]) for name in ("x", "y", "t"))
                told = {name: float(row[name]) for name in fields if (row[name] or "").strip()}
            except (TypeError, ValueError):
                raise ValueError(f"{path}, line {line}: a cell is no number.") from None
            if not all(map(math.isfinite, (x, y, t, *told.values()))):
                raise ValueError(f"{path}, line {line}: a cell is not finite; leave it empty.")
            rows += [(x, y, t, FIELDS.index(name), value) for name, value in told.items()]
    if not rows:
        raise ValueError(f"{path} holds no reading; expected at least one.")
    x, y, t, which, values = np.array(rows).T
    return Readings(np.stack([x, y], -1), t, which.astype(int), values)


def read_off(
    flow: Trajectory, places: Float[np.ndarray, "s 2"] | Float[np.ndarray, "s f 2"]
) -> Float[np.ndarray, "f s 3"]:
    """Return what sensors would read of a flow at each frame, at fixed or moving places."""
    frames = len(flow.times)
    where = np.asarray(places, float)
    where = np.repeat(where[:, None], frames, 1) if where.ndim == 2 else where
    stacked = flow.stacked
    return np.stack(
        [
            np.moveaxis(interpolation(flow.mesh, where[:, i])(stacked[i].T), 0, -1)
            for i in range(frames)
        ]
    )


def at_readings(
    stacked: Float[np.ndarray, "f n 3"],
    mesh: Mesh,
    times: Float[np.ndarray, " f"],
    readings: Readings,
) -> Float[np.ndarray, " m"]:
    """Return what a flow has where and when readings were taken, linear in triangles and time."""
    found = interpolation(mesh, readings.places)
    at = np.interp(readings.times, times, np.arange(len(times)))
    first = np.minimum(at.astype(int), max(len(times) - 2, 0))
    values = [
        (stacked[frame[:, None], found.nodes, readings.which[:, None]] * found.weights).sum(1)
        for frame in (first, np.minimum(first + 1, len(times) - 1))
    ]
    return values[0] + (at - first) * (values[1] - values[0])


def write_readings(
    path: Path,
    places: Float[np.ndarray, "f s 2"],
    times: Float[np.ndarray, " f"],
    values: Float[np.ndarray, "f s k"],
) -> None:
    """Write readings of the first k fields as a table that :func:`read_readings` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["x", "y", "t", *FIELDS[: values.shape[-1]]])
        for at, t, read in zip(places, times, values, strict=True):
            for place, row in zip(at, read, strict=True):
                table.writerow([f"{x:.6g}" for x in (*place, t, *row)])
