"""``rectiflow diagnose``: what the velocity field of a trained flow is like."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rectiflow.commands.answers import answer, table
from rectiflow.commands.parser import Parser, positive
from rectiflow.commands.tune import Tune
from rectiflow.commands.verb import Verb
from rectiflow.diagnostics import (
    asymmetry,
    gauge_residual,
    intrinsic_dimension,
    score,
    score_gauge,
    trajectory,
)
from rectiflow.likelihood import Hutchinson
from rectiflow.paths import Linear
from rectiflow.randomness import counter_generator
from rectiflow.solvers import Solver


class Diagnose(Verb):
    """Tell of a trained flow whether it is conservative, its gauge freedom, and the dimension.

    The field is diagnosed along trajectories from noise, conditions as in ``tune``.
    """

    domain = "diagnose"

    def __init__(self, tune: Tune) -> None:
        """Take the flow, its flags and its conditions from a domain's ``tune``."""
        self.tune = tune

    @property
    def name(self) -> str:  # type: ignore[override]
        """The domain: what follows the command's name."""
        return self.tune.domain

    def flags(self, parser: Parser) -> None:
        """Add the domain's flags, and where to look."""
        self.tune.own_flags(parser)
        add = parser.group("diagnosis")
        add("--num", type=positive, default=4, help="Trajectories.")
        add("--steps", type=positive, default=20, help="Of the solver, along the whole way.")
        add("--times", type=_time, nargs="+", default=[0.2, 0.5, 0.8, 0.95], help="In (0, 1).")
        add("--probes", type=positive, default=4, help="Random directions for each number.")
        parser.add_network()
        parser.add_json()

    def run(self, args: Namespace) -> int:
        """Diagnose, and tell."""
        pipe = self.tune.load(args)
        field, x0 = self.tune.diagnosis(args, pipe)
        if not isinstance(x0, Tensor):
            raise ValueError(
                f"the flow of {self.name} has no field of one tensor: its state has parts, or its "
                "network sees its last prediction; expected a flow of one tensor."
            )
        told: dict[str, Any] = {"steps": args.steps, "solver": self.tune.diagnosed_by}
        rows = diagnosed(field, x0, args.times, probes=args.probes, **told)
        size = x0[0].numel()
        text = table(rows)
        document = {"dimensions": size, "samples": len(x0), "times": rows}
        answer(document, f"{text}\nthe state has {size} dimensions", as_json=args.json)
        return 0


def diagnosed(
    field: Any,
    x0: Tensor,
    times: Sequence[float],
    *,
    steps: int,
    probes: int,
    solver: Solver | None = None,
) -> list[dict[str, float]]:
    """Return what a field on the straight path is like at some times along its trajectories.

    Returns
    -------
    list of dict
        ``asymmetry`` is 0 for a gradient and 4 for a rotation; ``gauge`` by how many nats for each
        dimension and unit of time the turned score, at unit speed, would change the density: 0
        where adding it keeps the marginals; ``dimension`` that of the samples at the scale of the
        time, with its standard error.
    """
    path, ends = Linear(), sorted(set(times))
    grid = sorted({*ends, *(i / steps for i in range(steps + 1))})
    rows = []
    # Forward-mode derivatives exist for the plain form of attention alone.
    with sdpa_kernel(SDPBackend.MATH):
        states = trajectory(field, x0, grid, solver)
        for t in ends:
            x, draw = states[grid.index(t)], counter_generator("diagnose", round(1e6 * t))
            assert isinstance(x, Tensor)
            told: dict[str, Any] = {"divergence": Hutchinson(probes), "generator": draw}
            found = asymmetry(field, x, t, n_probes=probes, generator=draw)
            own, turned = score(field, path), score_gauge(field, path, draw)
            off = gauge_residual(turned, own, x, t, **told)
            with torch.no_grad():
                value = own(x, t)
            assert isinstance(value, Tensor)
            speed = value.flatten(1).norm(dim=1) * math.sqrt(x[0].numel())
            dimension = intrinsic_dimension(field, path, states[-1], t, **told)  # type: ignore[arg-type]
            error = float(dimension.std()) / math.sqrt(len(x0)) if len(x0) > 1 else math.nan
            rows.append(
                {
                    "time": t,
                    "asymmetry": float(found),
                    "gauge": float((off / speed).square().mean().sqrt()),
                    "dimension": float(dimension.mean()),
                    "error": error,
                }
            )
    return rows


def _time(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise ValueError(text)
    return value
