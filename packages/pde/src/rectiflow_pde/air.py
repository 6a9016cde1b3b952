"""Forecasts of concentrations at stations: objective, pipeline, result."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.figures import new_figure, save_figure
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.results import Result
from rectiflow.storage.table import write_rows
from torch import Tensor, nn

from rectiflow_pde.io.stations import Series
from rectiflow_pde.networks.air import AirNetwork

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

_DRAWN = 6  # stations in a picture


@dataclass(frozen=True)
class AirSettings:
    """What a checkpoint is to be used with.

    Parameters
    ----------
    scale : float
        Of values.
    history, horizon : int
        Times that are known, and that are forecast.
    step : float
        Hours between them.
    """

    scale: float
    history: int = 24
    horizon: int = 24
    step: float = 1.0


class AirObjective(nn.Module):
    """The mean absolute error of forecasts where there are readings, in their unit.

    Batches are of :class:`~rectiflow_pde.data.air.Windows`, all of the same stations.

    Parameters
    ----------
    network : AirNetwork
    step : float
        Hours between times.
    """

    def __init__(self, network: nn.Module, step: float = 1.0) -> None:
        super().__init__()
        self.network: Any = network
        self.step = step

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss, and the error of the last readings repeated."""
        history, future = batch["history"], batch["future"]
        told = batch["wind"], batch["places"][0], future.shape[1], self.step
        found = self.network(history, *told)
        last = self.network.held(history)[0][:, -1:].expand_as(future)
        return {"loss": masked(found, future), "persistence": masked(last, future)}


def masked(found: Float[Tensor, "*s"], true: Float[Tensor, "*s"]) -> Tensor:
    """Return the mean absolute error where the truth is known."""
    known = ~true.isnan()
    return (found - true.nan_to_num()).abs().mul(known).sum() / known.sum().clamp_min(1)


@dataclass(frozen=True)
class AirResult(Result):
    """A forecast.

    Attributes
    ----------
    series : Series
        The last known readings.
    values : ndarray, shape (f, n)
        Forecast, in their unit.
    warnings : list of str
    """

    series: Series
    values: np.ndarray
    warnings: list[str]

    def write(self, folder: Path, suffix: str = "") -> list[dict[str, Any]]:
        """Write ``forecast.csv`` as the readings were, and ``forecast.png``."""
        known, names = len(self.series.values), self.series.stations.names
        rows = [
            {"time": self.series.time(known + i), "station": name, "value": float(value)}
            for i, frame in enumerate(self.values)
            for name, value in zip(names, frame, strict=True)
        ]
        write_rows(folder / "forecast.csv", ("time", "station", "value"), rows)
        save_figure(self.figure(), folder / "forecast.png")
        files = ["forecast.csv", "forecast.png"]
        return [{"name": "forecast", "files": files, "warnings": self.warnings}]

    def figure(self) -> Figure:
        """Draw the stations with the greatest forecasts."""
        shown = np.argsort(-self.values.max(0))[:_DRAWN]
        figure = new_figure(6.4, 1.4 * len(shown) + 0.6)
        step, known = self.series.step, self.series.values
        for row, station in enumerate(shown):
            axes = figure.add_subplot(len(shown), 1, row + 1)
            axes.plot(step * np.arange(-len(known) + 1, 1), known[:, station], "k.-", markersize=3)
            axes.plot(step * np.arange(1, len(self.values) + 1), self.values[:, station], "C0")
            axes.set_title(self.series.stations.names[station], fontsize=9, loc="left")
            axes.set_ylim(bottom=0)
        axes.set_xlabel("hours after the last reading")
        return figure


class AirPipeline(Pipeline):
    """Forecasts what stations are going to measure, from what they did and the wind.

    Parameters
    ----------
    network : AirNetwork
        It knows no station: any may be forecast.
    settings : AirSettings
    dtype : torch.dtype
        float32.

    References
    ----------
    Hettige et al., "AirPhyNet" (ICLR 2024), in the form of :mod:`rectiflow_pde.networks.air`.
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = AirSettings
    settings: AirSettings

    def __init__(
        self, network: AirNetwork, *, settings: AirSettings, dtype: torch.dtype = torch.float32
    ) -> None:
        if dtype != torch.float32:
            raise ValueError(f"forecasts are computed in float32, got {dtype}; leave it out.")
        super().__init__({"network": network}, settings=settings, dtype=dtype)

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the network."""
        return {"network": AirNetwork}

    def work(self, part: str = "") -> Work:
        """Return a forecast, whose tokens are stations and calls times."""

        def run(load: Load) -> None:
            settings, draw = self.settings, torch.Generator().manual_seed(0)
            size = (1, settings.history, load.tokens)
            shapes = size, (1, load.tokens, 2), (load.tokens, 2)
            history, wind, places = (torch.rand(*s, generator=draw).to(self.device) for s in shapes)
            self.network(history, wind, 20 * places, load.calls, settings.step)

        return Work(torch.no_grad()(run), [(1, n) for n in (4, 8, 16, 32)], (2, 6))

    @torch.no_grad()
    def __call__(self, series: Series, *, horizon: int | None = None) -> AirResult:
        """Forecast the times after a series; the wind stays as it was last.

        Parameters
        ----------
        series : Series
        horizon : int, optional
            Times; the checkpoint's own if absent.

        Raises
        ------
        ValueError
            If there are fewer times than the network looks at, or they are spaced otherwise.
        """
        from rectiflow_pde.data.air import Windows, cut

        began, s = time.perf_counter(), self.settings
        horizon = s.horizon if horizon is None else horizon
        if len(series.values) < s.history or horizon < 1:
            raise ValueError(
                f"a forecast needs {s.history} times before it and at least one to forecast, got "
                f"{len(series.values)} and {horizon}. Add earlier readings."
            )
        if abs(series.step - s.step) > 0.01 * s.step:
            raise ValueError(
                f"readings are {series.step:g} h apart, the weights know {s.step:g} h; expected "
                "the same. Resample them, or train on such."
            )
        recent = cut(series, len(series.values) - s.history, len(series.values))
        example = Windows(recent, s.scale, s.history, 0)[0]
        given = (example[k][None].to(self.device) for k in ("history", "wind"))
        found = self.network(*given, example["places"].to(self.device), horizon, s.step)
        values = s.scale * found[0].clamp_min(0).cpu().numpy()
        silent = np.isnan(recent.values).all(0)
        quiet = [n for n, none in zip(series.stations.names, silent, strict=True) if none]
        notes = [f"{name} was silent, and counts as 0 at the start" for name in quiet]
        told = self.describe() | {"horizon": horizon}
        seconds = time.perf_counter() - began
        return AirResult(recent, values, [*series.notes, *notes], settings=told, seconds=seconds)
