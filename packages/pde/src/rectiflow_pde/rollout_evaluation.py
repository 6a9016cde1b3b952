"""How long rollouts of solved flows stay right, and which waves their steps get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.figures import labelled
from rectiflow.randomness import counter_generator

from rectiflow_pde.data.states import Waves
from rectiflow_pde.metrics.errors import Correlation, correlation
from rectiflow_pde.metrics.rollouts import agreeing, correlated, error_spectrum
from rectiflow_pde.metrics.spectra import energy_spectrum_1d
from rectiflow_pde.refinement import Stepping
from rectiflow_pde.rollout import RolloutPipeline

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

THRESHOLDS = (0.8, 0.9)


@dataclass(frozen=True)
class Measure:
    """Rollouts of one way, measured.

    Attributes
    ----------
    rows : list of dict
        One for each flow.
    together : Correlation
        Mean over the flows.
    error, truth : ndarray, shape (k,)
        Energy by wave number of the error after one step, and of the flows.
    calls : int
        Of the network for a step.
    """

    rows: list[dict[str, Any]]
    together: Correlation
    error: Float[np.ndarray, " k"]
    truth: Float[np.ndarray, " k"]
    calls: int


def evaluate(
    pipe: RolloutPipeline,
    waves: Waves,
    way: Stepping,
    *,
    frames: int,
    members: int = 1,
    seed: int = 0,
) -> Measure:
    """Roll every flow out from its first frame, and compare.

    Parameters
    ----------
    pipe : RolloutPipeline
    waves : Waves
        Of one number of frames and points.
    way : Stepping
    frames : int
        Steps of a rollout, at most as many as the flows are long; the given state included.
    members : int
        Samples of each; the first is measured, and their agreement tells how long they trust
        themselves.
    seed : int
    """
    stride = waves.stride
    truth = torch.stack([waves.states(i)[::stride][:frames] for i in range(len(waves))])
    spaces, steps = torch.tensor([waves.numbers(i) for i in range(len(waves))]).unbind(1)
    rows = len(truth)
    start = truth[:, :1].repeat_interleave(members, 0).to(pipe.device)
    draws = [counter_generator("rollout", seed, i, m) for i in range(rows) for m in range(members)]
    space, step = (x.repeat_interleave(members) for x in (spaces, steps))
    rolled = pipe.roll(start, space, step, truth.shape[1] - 1, draws, way)
    made = rolled.cpu().numpy().reshape(rows, members, *truth.shape[1:])
    true = truth.numpy()
    found = []
    for i in range(rows):
        times = (float(steps[i]) * stride * np.arange(true.shape[1])).tolist()
        own = correlation(made[i, 0], true[i], np.array(times))
        row: dict[str, Any] = {"name": f"flow_{i:04d}", "until": times[-1]}
        row |= {f"correlation_time_{c:g}": own.first_below(c) for c in THRESHOLDS}
        if members > 1:
            row["trusted_time"] = agreeing(made[i], times).first_below(THRESHOLDS[0])
        found.append(row)
    mean_step = float(steps.mean()) * stride
    together = correlated(made[:, 0], true, (mean_step * np.arange(true.shape[1])).tolist())
    spectrum = energy_spectrum_1d(true.astype(np.float64)).mean((0, 1))
    return Measure(found, together, error_spectrum(made[:, 0, 1], true[:, 1]), spectrum, way.calls)


def summarise(measures: Mapping[str, Measure]) -> dict[str, Any]:
    """Return by method the correlation times, and the error of one step by bands of waves.

    A time is None where the rollouts stay correlated to their end, which ``until`` tells.
    """
    told = {}
    for name, each in measures.items():
        bands = dict(zip(("low", "middle", "high"), np.array_split(each.error[1:], 3), strict=True))
        told[name] = {
            "flows": len(each.rows),
            "until": each.together.times[-1],
            **{f"correlation_time_{c:g}": each.together.first_below(c) for c in THRESHOLDS},
            **{f"step_error_{k}": float(np.sqrt(2 * v.sum())) for k, v in bands.items()},
            "calls": each.calls,
        }
    return told


def figures(measures: Mapping[str, Measure]) -> dict[str, Figure]:
    """Draw correlation over time, and the energy of the step's error by wave number."""
    over_time, time_axes = labelled("correlation with the truth", "time", "Pearson")
    by_wave, wave_axes = labelled("error of one step", "wave number", "energy")
    for name, each in measures.items():
        values = [np.nan if c is None else c for c in each.together.per_frame]
        time_axes.plot(each.together.times, values, label=name)
        wave_axes.loglog(np.arange(1, len(each.error)), each.error[1:], label=name)
    first = next(iter(measures.values()))
    wave_axes.loglog(np.arange(1, len(first.truth)), first.truth[1:], "k--", label="flows")
    time_axes.axhline(THRESHOLDS[0], color="grey", linewidth=0.8)
    for axes in (time_axes, wave_axes):
        axes.legend()
    return {"correlation": over_time, "spectrum": by_wave}
