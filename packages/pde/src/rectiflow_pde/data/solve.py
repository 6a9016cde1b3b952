"""Flows past cylinders drawn and solved into shards, in parallel and resumable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Unpack

from rectiflow.randomness import counter_generator
from rectiflow.storage.preparation import Judged, Preparation, Report, Running
from rectiflow.storage.splits import DEFAULT_FRACTIONS, check_fractions

from rectiflow_pde.data.prepared import COLUMNS, pack
from rectiflow_pde.data.records import finish, row_of
from rectiflow_pde.solvers.cylinder import CylinderFlow, solve_cylinder
from rectiflow_pde.solvers.draws import CylinderRanges

log = logging.getLogger(__name__)


def solve_flows(
    out: str | Path,
    ranges: CylinderRanges,
    times: Sequence[float],
    count: int,
    *,
    edge: float | None = None,
    step: float | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Solve ``count`` flows drawn from ranges into a folder of prepared flows.

    Flow ``i`` of a seed is the same whatever ``count`` and wherever it is solved. What an
    earlier, killed call solved is kept.

    Parameters
    ----------
    out : str or Path
        The folder; see :class:`~rectiflow_pde.data.PreparedFlows`.
    ranges : CylinderRanges
    times : sequence of float
        Of the frames, in seconds after the start.
    count : int
        How many.
    edge : float, optional
        Length of edges on the cylinder in metres; drawn by default.
    step : float, optional
        Time step of the solver in s; a stable one by default.
    fractions : mapping
        Shares of train, valid and test.
    seed : int
        Of the draws and of the split.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

    Raises
    ------
    ValueError
        If a range is impossible, before anything is solved.
    """
    check_fractions(fractions)
    flows = [draw(ranges, times, seed, i, edge=edge, step=step) for i in range(count)]
    if warnings := [text for flow in flows for text in flow.warnings()]:
        log.warning("%s (%d of %d flows)", warnings[0], len(warnings), count)
    settings = {
        "kind": "flows past cylinders",
        "ranges": asdict(ranges),
        "times": list(times),
        "edge": edge,
        "step": step,
        "count": count,
        "fractions": dict(fractions),
        "seed": seed,
        "units": "m, s, m/s; pressure over density in m²/s²",
    }
    preparation = Preparation(
        unit="flow",
        columns=COLUMNS,
        refusal=("file", "reason"),
        judge=_solve,
        finish=partial(finish, fractions=fractions, seed=seed),
        settings=settings,
        per_chunk=1,
    )
    inputs = [(f"cylinder_{seed}_{i:05d}", flow) for i, flow in enumerate(flows)]
    return preparation.run(inputs, Path(out), **run)


def draw(
    ranges: CylinderRanges,
    times: Sequence[float],
    seed: int,
    index: int,
    *,
    edge: float | None = None,
    step: float | None = None,
) -> CylinderFlow:
    """Draw flow ``index`` of a seed."""
    return ranges.draw(counter_generator("cylinder", seed, index), times, edge=edge, step=step)


def _solve(named: tuple[str, CylinderFlow]) -> Judged:
    name, flow = named
    try:
        solved = solve_cylinder(flow)
    except ValueError as error:
        return Judged(refused=[{"file": name, "reason": str(error)}])
    row = row_of(solved.trajectory, name, "solver", regime=solved.regime)
    return Judged(accepted=[(pack(solved.trajectory), row)])
