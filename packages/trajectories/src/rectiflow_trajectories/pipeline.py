"""The object users hold: trajectories in, their futures out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from torch import Tensor

from rectiflow_trajectories.data.prepare import Windows, origin, record_of
from rectiflow_trajectories.networks import EGTN, TensorEGTN
from rectiflow_trajectories.result import Forecast, ForecastResult
from rectiflow_trajectories.sampling import Key, diffused, flowed, noise_of, told_of
from rectiflow_trajectories.settings import TrajectorySettings
from rectiflow_trajectories.trajectory import Trajectory
from rectiflow_trajectories.units import factor

ROWS = 64
"""Samples that go through the network together."""


class TrajectoryPipeline(Pipeline):
    """Forecasts trajectories, or makes them of nothing but their graphs.

    Parameters
    ----------
    network : EGTN or TensorEGTN
    settings : TrajectorySettings, optional
    dtype : torch.dtype

    References
    ----------
    Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024).
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = TrajectorySettings

    def __init__(
        self,
        network: EGTN,
        *,
        settings: TrajectorySettings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            {"network": network}, settings=settings or TrajectorySettings(), dtype=dtype
        )

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the classes of the network."""
        return {"network": (EGTN, TensorEGTN)}

    @classmethod
    def load_official(cls, path: Path) -> Self:
        """Load the authors' checkpoint: :func:`rectiflow_trajectories.weights.load_official`."""
        from rectiflow_trajectories.weights import load_official

        found: Any = load_official(path)
        return found

    @property
    def windows(self) -> Windows:
        """Return what is cut out of trajectories for the network."""
        network: Any = self.network
        return Windows(self.settings.kind, network.given, network.frames)

    def work(self, part: str = "") -> Work:
        """Return the sampling of some graphs, whose tokens are the nodes."""
        return Work(self._run_samples, [(b, n) for b in (1, 4) for n in (4, 8, 16)], (1, 3))

    def _run_samples(self, load: Load) -> None:
        x = np.zeros((self.windows.length, load.tokens, self.settings.dimensions))
        x[..., 0] = 1.2 * np.arange(load.tokens)  # carbons in a row, where they are atoms
        record, _ = record_of(Trajectory(x, np.full(load.tokens, 6.0)), self.windows)
        self.samples([record], [0], num=load.rows, steps=load.calls)

    def __call__(
        self,
        asked: Trajectory | Sequence[Trajectory],
        *,
        num: int = 1,
        indices: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
        progress: Callable[[float, float], None] | None = None,
        **options: Any,
    ) -> ForecastResult:
        """Forecast what follows the last frames of trajectories.

        Parameters
        ----------
        asked : Trajectory or sequence of Trajectory
            With as many frames as the network is told, or more, of which the last count; where it
            is told none, their nodes alone count and whole trajectories are made.
        num : int
            Samples of each.
        indices : sequence of int, optional
            Numbers of the trajectories, which fix their noise; their places if absent.
        names : sequence of str, optional
            Of the trajectories.
        progress : callable, optional
        **options
            ``steps``, ``solver``, ``grid``, ``seed`` and ``ancestral``; see :meth:`samples`.

        Raises
        ------
        ValueError
            When a trajectory is too short, has gaps, or is of another space.
        """
        wanted = [asked] if isinstance(asked, Trajectory) else list(asked)
        numbers = range(len(wanted)) if indices is None else indices
        named = [f"trajectory_{i:04d}" for i in numbers] if names is None else names
        started, records, seen = time.perf_counter(), [], []
        for trajectory in wanted:
            window, notes = self._window(trajectory)
            record, _ = record_of(window, self.windows)
            records.append(record)
            seen.append((window, notes))
        made = self.samples(records, numbers, num=num, progress=progress, **options)
        forecasts = []
        for trajectory, (window, notes), futures, name in zip(
            wanted, seen, made, named, strict=True
        ):
            given = self.network.given
            back = factor(window.unit, trajectory.unit)
            place = origin(window.positions, given) if given else 0.0
            futures = back * (futures + place)
            shown = back * window.positions[:given]
            unit = trajectory.unit or window.unit
            told = {"notes": list(notes)} if notes else {}
            forecasts.append(Forecast(name, shown, futures, window.labels, unit, told))
        settings = self.described(num=num, **options)
        seconds = time.perf_counter() - started
        return ForecastResult(forecasts, settings=settings, seconds=seconds)

    def described(self, *, num: int, **options: Any) -> dict[str, Any]:
        """Return what shapes the results of a call, as plain data."""
        own: dict[str, Any] = {"steps": self.settings.steps, "solver": Euler(), "grid": None}
        told = own | {k: v for k, v in options.items() if v is not None} | {"num": num}
        if told.pop("ancestral", False):
            told = {"num": num, "ancestral": True, "seed": told.get("seed", 0)}
        named = {name: repr(told[name]) for name in ("solver", "grid") if told.get(name)}
        return self.describe() | {"seed": 0} | told | named

    @torch.no_grad()
    def samples(
        self,
        records: Sequence[dict[str, Tensor]],
        indices: Sequence[int],
        *,
        num: int = 1,
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Spacing | None = None,
        seed: int = 0,
        ancestral: bool = False,
        progress: Callable[[float, float], None] | None = None,
    ) -> list[np.ndarray]:
        """Return samples (num, t, n, d) of each record, in the unit of the weights.

        Parameters
        ----------
        records : sequence of dict
            As in prepared folders: positions about their :func:`~rectiflow_trajectories.data.
            prepare.origin`, features and links.
        indices : sequence of int
            Of the records; they fix the noise.
        num : int
        steps, solver, grid : optional
            How the flow is solved; the checkpoint's own steps, by Euler, if absent.
        seed : int
        ancestral : bool
            Take the random steps of the authors' diffusion instead.
        """
        if num < 1 or (steps is not None and not 1 <= steps <= 10_000):
            raise ValueError(f"num and steps must be at least 1, got {num} and {steps}.")
        own = self.settings.dimensions
        if any(each["positions"].shape[-1] != own for each in records):
            raise ValueError(f"the weights know {own} dimensions, got others; expected the same.")
        keys: list[Key] = [(i, k) for i in indices for k in range(num)]
        of = [record for record in records for _ in range(num)]
        found: list[Any] = []
        for start in range(0, len(keys), ROWS):
            some, told = keys[start : start + ROWS], told_of(self, of[start : start + ROWS])
            y = noise_of(self, told, some, seed)
            if ancestral:
                y = diffused(self, y, told, some, seed=seed)
            else:
                taken = steps or self.settings.steps
                way = {"seed": seed, "solver": solver, "grid": grid}
                y = flowed(self, y, told, some, steps=taken, **way)  # type: ignore[arg-type]
            x = (y + told["reference"] if self.network.given else y) * self.settings.scale
            counts = told["real"].sum(1).tolist()
            rows = zip(x.double().cpu(), counts, strict=True)
            found += [row[:count].movedim(0, 1).numpy() for row, count in rows]
            if progress is not None:
                progress(min(start + ROWS, len(keys)), len(keys))
        return [np.stack(found[i : i + num]) for i in range(0, len(found), num)]

    def _window(self, trajectory: Trajectory) -> tuple[Trajectory, tuple[str, ...]]:
        """Return the last frames that the network is told, whole and in its unit."""
        given, own = self.network.given, self.settings
        if trajectory.dimensions != own.dimensions:
            raise ValueError(
                f"the trajectory has {trajectory.dimensions} dimensions, got weights of "
                f"{own.dimensions}; expected the same."
            )
        if trajectory.frames < given:
            raise ValueError(
                f"the trajectory has {trajectory.frames} frame(s), and the network is told "
                f"{given}; expected at least {given}."
            )
        first = trajectory.frames - given
        last = trajectory.between(first, trajectory.frames) if given else trajectory.between(0, 1)
        whole, notes = last.complete()
        if own.unit and not trajectory.unit:
            notes += (f"the file tells no unit; lengths are taken to be in {own.unit}",)
        if trajectory.unit and not own.unit:
            notes += (f"the weights know no unit; {trajectory.unit} are taken for theirs",)
        return whole.measured_in(own.unit), notes
