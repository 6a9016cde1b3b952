"""What a call returns, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.results import Result

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Forecast:
    """Samples of what follows some frames.

    Attributes
    ----------
    name : str
    given : ndarray, shape (s, n, d)
        The frames before; none where whole trajectories are made.
    futures : ndarray, shape (k, t, n, d)
        A sample each, in the unit of the input.
    names : tuple of str
        Of the nodes.
    unit : str
        Empty where it is not known.
    told : dict
        What was done to the input.
    """

    name: str
    given: Float[np.ndarray, "s n d"]
    futures: Float[np.ndarray, "k t n d"]
    names: tuple[str, ...]
    unit: str = ""
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """Return how far the samples are from their mean in the last frame, on average."""
        last = self.futures[:, -1]
        return float(np.linalg.norm(last - last.mean(0), axis=-1).mean())


@dataclass(frozen=True)
class ForecastResult(Result):
    """Forecasts and how they were made.

    Attributes
    ----------
    forecasts : list of Forecast
    """

    forecasts: list[Forecast]

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write a file each, ``.npz`` or ``.csv``."""
        from rectiflow_trajectories.io.write import write_forecast

        rows = []
        for each in self.forecasts:
            name = f"{each.name}{suffix or '.npz'}"
            write_forecast(folder / name, each)
            row = {"name": each.name, "files": [name], "nodes": len(each.names)}
            rows.append(row | {"spread": each.spread, "unit": each.unit} | each.told)
        return rows
