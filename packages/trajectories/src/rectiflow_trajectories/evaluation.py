"""How far forecasts are from what happened, beside the plainest guesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.evaluation import Evaluation

from rectiflow_trajectories.likelihood import likelihood_bound
from rectiflow_trajectories.metrics import ade, fde, least, marginal_score, representatives

if TYPE_CHECKING:
    from rectiflow_trajectories.data import PreparedTrajectories
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

TOGETHER = 16
"""Windows that are measured together."""


def guesses(given: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Return the last frame, and the last two gone on with, of given frames (s, n, d)."""
    last = np.repeat(given[-1:], frames, 0)
    found = {"last": last}
    if len(given) > 1:
        ahead = np.arange(1, frames + 1)[:, None, None]
        found["velocity"] = last + ahead * (given[-1] - given[-2])
    return found


def measure_windows(
    pipe: TrajectoryPipeline | None,
    prepared: PreparedTrajectories,
    rows: Sequence[int],
    *,
    num: int = 5,
    steps: Sequence[int] = (),
    bound: bool = False,
    clusters: int | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Forecast some windows and return rows of errors, one for each number of steps.

    Parameters
    ----------
    pipe : TrajectoryPipeline, optional
        None measures the guesses alone.
    prepared : PreparedTrajectories
    rows : sequence of int
    num : int
        Samples of each, over whose errors the mean and the least are taken.
    steps : sequence of int
        Numbers of steps; the checkpoint's own if empty.
    bound : bool
        Tell the likelihood bound of each window as well, in nats.
    clusters : int, optional
        Take the least errors over so many samples, those that stand for all.
    **options
        As for :meth:`TrajectoryPipeline.samples`.
    """
    records = [prepared.records[row] for row in rows]
    given = int(prepared.told("given"))
    found: list[dict[str, Any]] = []
    names = [str(prepared.table["name"][row]) for row in rows]
    whole = [each["positions"].movedim(0, 1).double().numpy() for each in records]
    base: list[dict[str, Any]] = []
    for name, x in zip(names, whole, strict=True):
        told: dict[str, Any] = {"name": name}
        if given:
            for kind, guess in guesses(x[:given], len(x) - given).items():
                told |= {f"{kind}_ade": float(ade(guess, x[given:]))}
                told |= {f"{kind}_fde": float(fde(guess, x[given:]))}
        base.append(told)
    if pipe is None:
        return base
    if bound:
        nats = likelihood_bound(pipe, records, [(row, 0) for row in rows])
        for told, value in zip(base, nats.tolist(), strict=True):
            told["bound"] = value
    alone = prepared.told("kind") == "pedestrians"  # each has the samples that suit it
    for count in steps or (pipe.settings.steps,):
        made = pipe.samples(records, rows, num=num, steps=count, **options)
        for told, x, futures in zip(base, whole, made, strict=True):
            row = {**told, "steps": count}
            if given:
                near, last = ade(futures, x[given:]), fde(futures, x[given:])
                row |= {"ade": float(near.mean()), "fde": float(last.mean())}
                best = futures if clusters is None else representatives(futures, clusters)
                row |= dict(
                    zip(("min_ade", "min_fde"), least(best, x[given:], apart=alone), strict=True)
                )
            else:
                row |= {"made": futures, "real": x}
            found.append(row)
    return found


def summed_up(rows: Sequence[Mapping[str, Any]], failures: dict[str, str]) -> Evaluation:
    """Return the rows with their means, and marginal scores where whole trajectories were made."""
    summary: dict[str, Any] = {"windows": len({row["name"] for row in rows})}
    for count in dict.fromkeys(row.get("steps") for row in rows):
        some = [row for row in rows if row.get("steps") == count]
        for name in some[0]:
            if name in ("name", "steps", "made", "real"):
                continue
            is_apart = name == "bound" or name.startswith(("last_", "velocity_"))
            key = name if is_apart or count is None else f"{name}@{count}"
            summary[key] = float(np.mean([row[name] for row in some]))
        if "made" in some[0]:
            summary |= _marginals(some, f"@{count}")
    kept = [{k: v for k, v in row.items() if k not in ("made", "real")} for row in rows]
    return Evaluation(kept, summary, failures)


def _marginals(rows: Sequence[Mapping[str, Any]], mark: str) -> dict[str, float]:
    width = rows[0]["real"].shape[-1]
    made, real = (np.concatenate([r[k].reshape(-1, width) for r in rows]) for k in ("made", "real"))
    normal = real.mean(0) + real.std(0) * np.random.default_rng(0).standard_normal(made.shape)
    return {
        f"marginal{mark}": marginal_score(real, made),
        f"marginal_normal{mark}": marginal_score(real, normal),
    }
