"""Rows of the table of prepared flows, and how a preparation of flows ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rectiflow.storage.preparation import Extracted, Kept, Row
from rectiflow.storage.splits import split_all

from rectiflow_pde.data.prepared import NUMBERS, STATISTICS
from rectiflow_pde.trajectory import FIELDS, Trajectory


def row_of(
    trajectory: Trajectory, name: str, source: str, *, regime: str = "unknown", split: str = ""
) -> Row:
    """Make the row of a trajectory; an empty ``split`` is decided when all are there."""
    steps = np.diff(trajectory.times)
    known = trajectory.parameters
    return {
        "name": name,
        "split": split,
        "source": source,
        "regime": regime,
        "caption": trajectory.caption,
        "frames": len(trajectory.times),
        "nodes": trajectory.mesh.n_nodes,
        "t0": float(trajectory.times[0]),
        "frame_step": float(steps.mean()) if len(steps) else None,
        **{number: _number(known.get(number)) for number in NUMBERS},
    }


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def finish(found: Extracted, fractions: Mapping[str, float], seed: int, **counts: float) -> Kept:
    """Split what no input told, and add the statistics of the training split."""
    rows = found.rows
    split_all(rows, fractions, seed=seed)
    train = [i for i, row in enumerate(rows) if row["split"] == "train"] or range(len(rows))
    table = _statistics(found.record(i)["fields"].numpy() for i in train)
    tables = {STATISTICS: (("field", "mean", "std"), table)}
    regimes = [row["regime"] for row in rows]
    told = {name: regimes.count(name) for name in dict.fromkeys(regimes)}
    return Kept(range(len(rows)), {**told, **counts}, tables)


def _statistics(arrays: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    """Mean and standard deviation of each field; 1 where nothing varies."""
    count, total, squares = 0, np.zeros(len(FIELDS)), np.zeros(len(FIELDS))
    for array in arrays:
        values = array.astype(np.float64)
        count += len(values)
        total += values.sum(0)
        squares += (values**2).sum(0)
    mean = total / max(count, 1)
    deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
    deviation[deviation <= 1e-7 * np.abs(mean) + 1e-30] = 1.0
    return [
        {"field": name, "mean": float(m), "std": float(s)}
        for name, m, s in zip(FIELDS, mean, deviation, strict=True)
    ]
