"""Methods of assimilation side by side, judged by sensors that were held back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.inverse import Method

from rectiflow_pde.assimilation import assimilate
from rectiflow_pde.readings import Readings, at_readings

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from rectiflow_pde.pipeline import SimulationPipeline


@dataclass(frozen=True)
class Compared:
    """One method on the readings that it was told.

    Attributes
    ----------
    method : str
    error : float
        Root mean square over the readings that it was not told, in units of the inflow.
    u, v, p : float
        Of each field; not a number where nothing of it was held back.
    seconds : float
    """

    method: str
    error: float
    u: float
    v: float
    p: float
    seconds: float


def held_back(readings: Readings, share: float = 0.2, seed: int = 0) -> Bool[np.ndarray, " m"]:
    """Choose what methods are not told: whole sensors, or rows of a few sensors that move.

    Raises
    ------
    ValueError
        If there are too few readings to hold any back.
    """
    rng = np.random.default_rng(seed)
    places, sensor = np.unique(readings.places, axis=0, return_inverse=True)
    if len(places) < 5:
        raise ValueError(
            f"methods are compared by sensors that are held back, got {len(places)} places in the "
            "readings; expected at least 5."
        )
    away = rng.permutation(len(places))[: max(1, round(share * len(places)))]
    chosen: Bool[np.ndarray, " m"] = np.isin(sensor.reshape(-1), away)
    return chosen


def compare_assimilations(
    pipe: SimulationPipeline,
    readings: Readings,
    prompt: str | None = None,
    *,
    methods: Mapping[str, Method],
    seed: int = 0,
    **told: Any,
) -> list[Compared]:
    """Run every method that fits at equal evaluations, and judge it by sensors held back.

    Parameters
    ----------
    pipe, readings, prompt, seed, **told
        As for :func:`~rectiflow_pde.assimilation.assimilate`; one sample each.
    methods : mapping
        By the names under which they are told.

    Returns
    -------
    list of Compared
        The smallest error first.

    Raises
    ------
    ValueError
        As ``assimilate`` does, and for fewer than five places.
    """
    away = held_back(readings, seed=seed)
    kept, rest = readings.of(~away), readings.of(away)
    rows = []
    for name, method in methods.items():
        result = assimilate(pipe, kept, prompt, method=method, seed=seed, **told)
        [flow] = result.flows
        speed = flow.parameters["u_mean"]
        units = np.array([speed, speed, speed**2])[rest.which]
        found = at_readings(flow.stacked, flow.mesh, flow.times - flow.times[0], rest)
        off = (found - rest.values) / units
        u, v, p = (_rms(off[rest.which == i]) for i in range(3))
        rows.append(Compared(name, _rms(off), u, v, p, result.seconds))
    return sorted(rows, key=lambda row: row.error)


def _rms(off: Float[np.ndarray, " m"]) -> float:
    return float(np.sqrt(np.square(off).mean())) if len(off) else float("nan")
