"""Windows of stations' readings as the data of a training run, and plumes with a known wind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import shuffled
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_pde.io.stations import (
    READINGS,
    STATIONS,
    Series,
    Stations,
    read_series,
    read_stations,
    write_series,
)
from rectiflow_pde.networks.air import KMH

if TYPE_CHECKING:
    pass

_SHARES = (0.7, 0.85)
"""Of the time at which the train and the valid split end."""


class Windows(Dataset[dict[str, Tensor]]):
    """``history (h, n)`` and ``future (f, n)`` over a scale, NaN in gaps, and ``wind (n, 2)``."""

    def __init__(self, series: Series, scale: float, history: int, horizon: int) -> None:
        self.values = torch.from_numpy((series.values / scale).astype(np.float32))
        self.wind = torch.from_numpy(series.wind.astype(np.float32))
        self.places = torch.from_numpy(series.stations.places.astype(np.float32))
        self.history, self.horizon = history, horizon

    def __len__(self) -> int:
        return max(len(self.values) - self.history - self.horizon + 1, 0)

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        now = at + self.history
        return {
            "history": self.values[at:now],
            "future": self.values[now : now + self.horizon],
            "wind": self.wind[now - 1],
            "places": self.places,
        }


class AirData(FlowData):
    """Windows of the first 70 % of the time; the next 15 % are held out, the rest is left alone.

    Parameters
    ----------
    folder : str or Path
        With ``stations.csv`` and ``readings.csv``.
    batch_size : int
        Windows per rank and step.
    history, horizon : int
        Times of a window that are known, and that are to be forecast.
    seed : int
    **loader
        As for :class:`~rectiflow.training.data.FlowData`.

    Attributes
    ----------
    scale : float
        Deviation of the training's values, in whose units the network thinks. They are not shifted:
        transport conserves concentrations, not differences from a mean.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 32,
        *,
        history: int = 24,
        horizon: int = 24,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        series = read_folder(folder)
        self.history, self.horizon, self.step = history, horizon, series.step
        parts = split(series)
        self.scale = float(np.nanstd(parts[0].values)) or 1.0
        train, held = (Windows(part, self.scale, history, horizon) for part in parts[:2])
        if len(train) < 1:
            raise ValueError(
                f"{folder} has {len(series.values)} times, of which 70 % are trained on; expected "
                f"at least {history + horizon} there: history and horizon. Add data, or shorten "
                "data.module.history and data.module.horizon."
            )
        validation = HeldOut(held, batch_size) if len(held) > 0 else None
        super().__init__(train, shuffled(len(train), batch_size, seed), validation, **loader)


def read_folder(folder: str | Path) -> Series:
    """Read both tables of a folder."""
    return read_series(Path(folder) / READINGS, read_stations(Path(folder) / STATIONS))


def split(series: Series) -> list[Series]:
    """Cut a series into train, valid and test, one after the other in time."""
    ends = [0, *(int(share * len(series.values)) for share in _SHARES), len(series.values)]
    return [cut(series, *pair) for pair in pairwise(ends)]


def cut(series: Series, start: int, stop: int) -> Series:
    """Return some times of a series."""
    told: dict[str, Any] = {"values": series.values[start:stop], "wind": series.wind[start:stop]}
    return Series(series.stations, series.time(start), series.step, **told, notes=series.notes)


def plumes(*, stations: int = 16, hours: int = 480, gaps: float = 0.0, seed: int = 0) -> Series:
    """Make plumes that a known wind carries over stations.

    Puffs are released at random places every few hours, carried by a wind that turns slowly and is
    the same everywhere, and spread by diffusion: sums of Gaussians, solved exactly.

    Parameters
    ----------
    stations : int
        At random in a square of 40 km.
    hours : int
        Of readings, one in an hour.
    gaps : float
        Share of values that were not measured.
    seed : int
    """
    draw = np.random.default_rng(int(counter_generator("plumes", seed).initial_seed()))
    half = 20.0
    grid = int(np.ceil(np.sqrt(stations)))
    cells = draw.permutation(grid * grid)[:stations]
    places = np.stack([cells % grid, cells // grid], -1) + draw.uniform(0.2, 0.8, (stations, 2))
    places = half * (2 * places / grid - 1)
    angle = 2 * np.pi * draw.uniform() + np.cumsum(draw.normal(0, 0.04, hours))
    speed = 0.8 + 0.2 * np.sin(2 * np.pi * np.arange(hours) / 50 + draw.uniform(0, 6))
    wind = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)  # m/s
    drift = np.concatenate([np.zeros((1, 2)), np.cumsum(KMH * wind[:-1], 0)])
    values = np.full((hours, stations), 2.0)
    for begin in range(0, hours, 12):
        upwind = -half * wind[begin] / np.linalg.norm(wind[begin])
        source = upwind * draw.uniform(0.3, 1) + draw.uniform(-half, half, 2) * 0.5
        amount = draw.uniform(8e3, 24e3)
        age = np.arange(hours - begin)
        width = 6.0**2 + 2 * 0.5 * age  # km²
        centre = source + drift[begin:] - drift[begin]
        off = ((places - centre[:, None]) ** 2).sum(-1) / (2 * width[:, None])
        values[begin:] += amount / (2 * np.pi * width[:, None]) * np.exp(-off)
    values[draw.uniform(size=values.shape) < gaps] = np.nan
    lat0, lon0, degree = 39.9, 116.4, np.degrees(1 / 6371.0)
    told = Stations(
        tuple(f"S{i:02d}" for i in range(stations)),
        lat0 + places[:, 1] * degree,
        lon0 + places[:, 0] * degree / np.cos(np.radians(lat0)),
    )
    everywhere = np.repeat(wind[:, None], stations, 1)
    return Series(told, "2024-01-01T00:00:00+00:00", 1.0, values, everywhere)


def write_plumes(
    out: str | Path, *, stations: int = 16, hours: int = 480, gaps: float = 0.05, seed: int = 0
) -> Path:
    """Write :func:`plumes` as the tables of a folder."""
    made = plumes(stations=stations, hours=hours, gaps=gaps, seed=seed)
    write_series(made, out)
    return Path(out)
