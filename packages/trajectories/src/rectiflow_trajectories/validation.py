"""What a training looks at now and then: forecasts of held-out windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from rectiflow_trajectories.evaluation import measure_windows, summed_up
from rectiflow_trajectories.pipeline import TrajectoryPipeline

if TYPE_CHECKING:
    from rectiflow_trajectories.data import PreparedTrajectories
    from rectiflow_trajectories.settings import TrajectorySettings


class ForecastValidation:
    """Forecasts windows of the valid split with the network in training.

    Parameters
    ----------
    num : int
        Windows.
    samples, steps : int
        Of each.
    seed : int
        Of their noise.

    Attributes
    ----------
    prepared : PreparedTrajectories
    settings : TrajectorySettings
        What the export will be used with.
    """

    prepared: PreparedTrajectories
    settings: TrajectorySettings

    def __init__(self, *, num: int = 64, samples: int = 1, steps: int = 8, seed: int = 0) -> None:
        if min(num, samples, steps) < 1:
            raise ValueError(f"num, samples and steps must be positive, got {num, samples, steps}.")
        self.num, self.samples, self.steps, self.seed = num, samples, steps, seed

    def __call__(self, network: nn.Module, step: int, run_dir: Path) -> dict[str, float]:
        """Return the mean errors."""
        rows = self.prepared.some_rows("valid").tolist()[: self.num]
        settings = replace(self.settings, steps=self.steps)
        pipe = TrajectoryPipeline(network, settings=settings)  # type: ignore[arg-type]
        told: Any = {"num": self.samples, "seed": self.seed}
        found = summed_up(measure_windows(pipe, self.prepared, rows, **told), {})
        mark = f"@{self.steps}"
        return {
            name.removesuffix(mark): value
            for name, value in found.summary.items()
            if name.endswith(mark) and not name.startswith(("min_", "marginal_"))
        }
