"""Flows past cylinders drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rectiflow_pde.meshing import Channel
from rectiflow_pde.solvers.cylinder import CylinderFlow
from rectiflow_pde.units import ROUNDED, VISCOSITY

Range = tuple[float, float]


@dataclass(frozen=True)
class CylinderRanges:
    """What flows are drawn from; a range of one value is that value.

    The Reynolds number is drawn by its logarithm, the rest evenly. A draw whose mean inflow is
    outside its range, or whose cylinder does not fit, is drawn again.

    Attributes
    ----------
    reynolds : tuple of float, optional
        None derives it from the mean inflow.
    radius, centre_x, centre_y : tuple of float
        Metres.
    u_mean : tuple of float, optional
        Mean inflow in m/s, which the Reynolds number gives: what limits it; None for no limit.
    viscosity : float
        m²/s.
    """

    reynolds: Range | None = (25.0, 190.0)
    radius: Range = (0.03, 0.065)
    centre_x: Range = (0.22, 0.45)
    centre_y: Range = (0.145, 0.265)
    u_mean: Range | None = (0.25, 1.7)
    viscosity: float = VISCOSITY

    @classmethod
    def of(cls, **given: Any) -> CylinderRanges:
        """Return the usual ranges but for those given; Reynolds number and inflow as one of them.

        Raises
        ------
        ValueError
            If a Reynolds number or an inflow is not positive.
        """
        for name in ("reynolds", "u_mean"):
            low = given[name][0] if name in given else 1.0
            if not low > 0:
                said = {"reynolds": "Reynolds number", "u_mean": "mean inflow"}[name]
                raise ValueError(f"the {said} must be positive, got {low:g}.")
        if "reynolds" in given:
            given.setdefault("u_mean", None)
        elif "u_mean" in given:
            given["reynolds"] = None
        return cls(**given)

    def draw(
        self,
        generator: torch.Generator,
        times: Sequence[float],
        *,
        edge: float | None = None,
        step: float | None = None,
    ) -> CylinderFlow:
        """Draw one flow with the edges of its mesh and its push.

        Raises
        ------
        ValueError
            If hardly any draw is possible, or a cylinder that is not drawn is outside.
        """
        ranges = (self.radius, self.centre_x, self.centre_y)
        is_fixed = all(a == b for a, b in ranges)
        for _ in range(1000):
            share = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
            radius, x, y = (a + s * (b - a) for (a, b), s in zip(ranges, share[1:4], strict=True))
            u_mean = self._inflow(share[0], radius)
            try:
                channel = Channel(radius, (x, y))
            except ValueError:
                if is_fixed:
                    raise
                continue
            if u_mean is None or (channel.gap < 0.3 * radius and not is_fixed):
                continue
            sign = 1 if share[7] < 0.5 else -1
            return CylinderFlow(
                channel,
                u_mean,
                self.viscosity,
                tuple(times),
                edge=2 * math.pi * radius / (24 + 4 * share[4]) if edge is None else edge,
                far=0.036 + 0.010 * share[5],
                step=step,
                push=sign * (0.2 + 0.4 * share[6]),
            )
        raise ValueError(
            f"hardly any flow is within {self}; mean inflow is Reynolds number times viscosity "
            "over diameter. Widen a range."
        )

    def _inflow(self, share: float, radius: float) -> float | None:
        """Mean inflow of a draw; None if it is outside its range."""
        if self.reynolds is None:
            assert self.u_mean is not None
            return self.u_mean[0] + share * (self.u_mean[1] - self.u_mean[0])
        low, high = map(math.log, self.reynolds)
        found = math.exp(low + share * (high - low)) * self.viscosity / (2 * radius)
        low, high = self.u_mean or (0.0, math.inf)
        return found if low * (1 - ROUNDED) <= found <= high * (1 + ROUNDED) else None
