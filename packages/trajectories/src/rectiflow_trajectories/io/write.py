"""Files of forecasts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.files import whole_file

if TYPE_CHECKING:
    from rectiflow_trajectories.result import Forecast

FORMATS = (".npz", ".csv")


def write_forecast(path: Path, forecast: Forecast) -> None:
    """Write the given frames and all samples of a forecast.

    An NPZ has ``given (s, n, d)``, ``futures (k, t, n, d)``, ``names`` and ``unit``; a CSV has a
    row for each sample, frame and node, the given frames as those before 0 with no sample.

    Raises
    ------
    ValueError
        When the suffix is of neither.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} cannot be written; expected a name that ends in .npz or .csv.")
    given, names = forecast.given, forecast.names
    with whole_file(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    given=given,
                    futures=forecast.futures,
                    names=np.array(names),
                    unit=np.array(forecast.unit),
                )
            return
        axes = ("x", "y", "z")[: given.shape[-1]]
        with temporary.open("w", newline="", encoding="utf-8") as text:
            rows = csv.writer(text)
            rows.writerow(("sample", "frame", "node", *axes))
            parts = [("", -len(given), given), *((k, 0, x) for k, x in enumerate(forecast.futures))]
            for sample, first, frames in parts:
                for frame, places in enumerate(frames, first):
                    for name, place in zip(names, places, strict=True):
                        rows.writerow((sample, frame, name, *(f"{v:.9g}" for v in place)))
