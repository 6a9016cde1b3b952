"""Monitoring stations and what they measured: two tables.

``stations.csv`` has ``station, latitude, longitude`` in degrees. ``readings.csv`` has ``time,
station, value`` and the wind, as ``wind_speed`` (m/s) and ``wind_direction`` (degrees from north
that it blows from), or as ``wind_east`` and ``wind_north`` (m/s that it blows to). An empty cell,
and a missing row, is a gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_rows
from rectiflow.storage.table import write_rows

if TYPE_CHECKING:
    from jaxtyping import Float

STATIONS, READINGS = "stations.csv", "readings.csv"
_EARTH = 6371.0  # km
_POLAR, _PLAIN = ("wind_speed", "wind_direction"), ("wind_east", "wind_north")
_FASTEST = 120.0  # m/s: no wind is
_NEAR = 0.01  # km: nearer stations are one
_SECONDS = 3600.0


@dataclass(frozen=True, eq=False)
class Stations:
    """Where stations stand.

    Attributes
    ----------
    names : tuple of str
    latitude, longitude : ndarray, shape (n,)
        Degrees.
    """

    names: tuple[str, ...]
    latitude: Float[np.ndarray, " n"]
    longitude: Float[np.ndarray, " n"]

    @property
    def places(self) -> Float[np.ndarray, "n 2"]:
        """Kilometres east and north of the middle."""
        lat, lon = np.radians(self.latitude), np.radians(self.longitude)
        east = np.angle(np.exp(1j * (lon - lon[0])))  # across the date line as well
        return _EARTH * np.stack(
            [(east - east.mean()) * math.cos(lat.mean()), lat - lat.mean()], -1
        )


@dataclass(frozen=True, eq=False)
class Series:
    """What stations measured at even times.

    Attributes
    ----------
    stations : Stations
    start : str
        Of the first time, in ISO form.
    step : float
        Hours between times.
    values : ndarray, shape (f, n)
        NaN in gaps.
    wind : ndarray, shape (f, n, 2)
        m/s that it blows to the east and the north. In gaps it is as last measured there, before
        that as first, and at a station that never measured it the mean of the others.
    notes : tuple of str
        What was done.
    """

    stations: Stations
    start: str
    step: float
    values: Float[np.ndarray, "f n"]
    wind: Float[np.ndarray, "f n 2"]
    notes: tuple[str, ...] = ()

    def time(self, index: int) -> str:
        """Return a time in ISO form."""
        after = timedelta(hours=index * self.step)
        return (datetime.fromisoformat(self.start) + after).isoformat()


def read_stations(path: str | Path) -> Stations:
    """Read where stations stand.

    Raises
    ------
    FileError
        If a place is missing, no place on Earth, or two stations share a name or a place.
    """
    hint = "Correct the row."
    rows = read_rows(path, ("station", "latitude", "longitude"))
    names = [row["station"].strip() for _, row in rows]
    if len(rows) < 2 or len(set(names)) < len(names) or "" in names:
        found = f"it has {len(rows)} stations, {len(set(names))} of different names"
        raise FileError(path, found, "at least 2, each with a name of its own", hint)
    places = []
    for line, row in rows:
        lat, lon = (_number(path, line, row[k]) for k in ("latitude", "longitude"))
        if not (abs(lat) <= 90 and abs(lon) <= 360):
            found = f"line {line} has latitude {row['latitude']!r}, longitude {row['longitude']!r}"
            raise FileError(path, found, "degrees", hint)
        places.append((lat, lon))
    stations = Stations(tuple(names), *np.array(places).T)
    gap = np.linalg.norm(stations.places[:, None] - stations.places, axis=-1)
    np.fill_diagonal(gap, np.inf)
    i, j = np.unravel_index(np.argmin(gap), gap.shape)
    if gap[i, j] < _NEAR:
        found = f"{names[i]} and {names[j]} stand at one place"
        raise FileError(path, found, "different places", "Join their readings.")
    return stations


def read_series(path: str | Path, stations: Stations) -> Series:
    """Read what stations measured.

    Raises
    ------
    FileError
        If a station is unknown, times are not even, a value is no concentration, a row comes
        twice, or there is no wind at all.
    """
    path, hint = Path(path), "Correct the row."
    rows = read_rows(path, ("time", "station", "value"))
    known = {name: i for i, name in enumerate(stations.names)}
    kinds = [k for k in (_POLAR, _PLAIN) if rows and set(k) <= set(rows[0][1])]
    if not kinds:
        found = "it has no wind" if rows else "it has no row"
        raise FileError(path, found, f"columns {' and '.join(_POLAR)} as well", "Add them.")
    found_rows: list[tuple[float, int, float, float, float]] = []
    for line, row in rows:
        if (station := row["station"].strip()) not in known:
            found = f"line {line} is of station {station!r}"
            raise FileError(path, found, f"one of the {len(known)} stations", hint)
        value = _number(path, line, row["value"])
        if value < 0:
            raise FileError(path, f"line {line} has value {value:g}", "none below 0", hint)
        first, second = (_number(path, line, row[name]) for name in kinds[0])
        if kinds[0] == _POLAR:
            angle = math.radians(second)
            first, second = -first * math.sin(angle), -first * math.cos(angle)
        if math.hypot(first, second) > _FASTEST:
            found = f"line {line} has a wind of {math.hypot(first, second):g} m/s"
            raise FileError(path, found, f"at most {_FASTEST:g}", hint)
        found_rows.append((_moment(path, line, row["time"]), known[station], value, first, second))
    return _even(path, stations, rows[0][1]["time"], np.array(found_rows))


def _even(path: Path, stations: Stations, text: str, rows: np.ndarray) -> Series:
    moments = np.unique(rows[:, 0])
    if len(moments) < 2:
        raise FileError(path, "it has one time", "a series", "Add the others.")
    step = float(np.diff(moments).min())
    at = (rows[:, 0] - moments[0]) / step
    if (np.abs(at - at.round()) > 1e-3).any():
        found = f"times are {np.diff(moments).min():g} to {np.diff(moments).max():g} s apart"
        raise FileError(path, found, "whole multiples of the least", "Resample them.")
    index, station = at.round().astype(int), rows[:, 1].astype(int)
    frames, n = int(index.max()) + 1, len(stations.names)
    if frames > 100 * len(rows):
        found = f"{len(rows)} rows span {frames} times"
        raise FileError(path, found, "fewer gaps", "Cut the table at the gap.")
    seen, counts = np.unique(index * n + station, return_counts=True)
    if (counts > 1).any():
        which = stations.names[int(seen[counts > 1][0]) % n]
        found = f"station {which} has a time twice"
        raise FileError(path, found, "one row for each time and station", "Drop one.")
    values, wind = np.full((frames, n), np.nan), np.full((frames, n, 2), np.nan)
    values[index, station], wind[index, station] = rows[:, 2], rows[:, 3:]
    if not np.isfinite(values).any():
        raise FileError(path, "no value was measured", "some", "Fill the column.")
    filled, notes = _held(path, wind)
    gaps = float(np.isnan(values).mean())
    if gaps:
        notes.append(f"{100 * gaps:.3g} % of the values are gaps")
    zone = datetime.fromisoformat(text.strip()).tzinfo
    first = datetime.fromtimestamp(moments[0], zone or UTC).replace(tzinfo=zone)
    return Series(stations, first.isoformat(), step / _SECONDS, values, filled, tuple(notes))


def _held(path: Path, wind: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Fill gaps of the wind."""
    known = np.isfinite(wind).all(-1)
    notes = []
    if not known.any():
        raise FileError(path, "no wind was measured", "some", "Fill its columns.")
    if not known.all():
        notes.append(f"{100 * (1 - known.mean()):.3g} % of the winds are gaps, filled")
    frames = np.arange(len(wind))
    last = np.maximum.accumulate(np.where(known, frames[:, None], -1))
    first = np.where(known.any(0), known.argmax(0), -1)
    source = np.where(last >= 0, last, first)
    filled = np.take_along_axis(wind, np.maximum(source, 0)[..., None], 0)
    filled[:, ~known.any(0)] = filled[:, known.any(0)].mean(1, keepdims=True)
    return filled, notes


def write_series(series: Series, folder: str | Path) -> None:
    """Write both tables, gaps as empty cells."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    s = series.stations
    write_rows(
        folder / STATIONS,
        ("station", "latitude", "longitude"),
        [
            {"station": name, "latitude": f"{lat:.9g}", "longitude": f"{lon:.9g}"}
            for name, lat, lon in zip(s.names, s.latitude, s.longitude, strict=True)
        ],
    )
    rows: list[Mapping[str, Any]] = []
    for i, (values, winds) in enumerate(zip(series.values, series.wind, strict=True)):
        for name, value, wind in zip(s.names, values, winds, strict=True):
            row = {"time": series.time(i), "station": name, **dict(zip(_PLAIN, wind, strict=True))}
            rows.append(row | {"value": None if np.isnan(value) else float(value)})
    write_rows(folder / READINGS, ("time", "station", "value", *_PLAIN), rows)


def _number(path: str | Path, line: int, text: str) -> float:
    """Return a number, or NaN of an empty cell."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        value = math.inf
    if math.isinf(value):
        raise FileError(path, f"line {line} has {text!r}", "a number", "Correct the row.")
    return value


def _moment(path: Path, line: int, text: str) -> float:
    """Return seconds; a time without a zone is taken as it is, without summer time."""
    try:
        at = datetime.fromisoformat(text.strip())
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        found = f"line {line} has the time {text!r}"
        raise FileError(path, found, "one such as 2024-01-31T13:00", "Correct the row.") from None
