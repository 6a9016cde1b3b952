"""What flows on proteins: residue frames, from noise to a chain.

Translations go along straight lines, rotations along SLERP geodesics, both at the same time t,
0 noise and 1 data. The network predicts the clean frames; the flow's velocity follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from rectiflow.couplings import Coupling
from rectiflow.flow import Flow
from rectiflow.geodesics import Geodesic
from rectiflow.predictions import Data
from rectiflow.premetrics import Mask
from rectiflow.solvers import Context, Memory, Solver
from rectiflow.sources import NORMAL, Source
from rectiflow.spaces import quat_multiply
from rectiflow.states import State
from rectiflow.time_density import TimeDensity, Uniform
from torch import Tensor

from rectiflow_protein.frames import FRAME_SPACE, centre
from rectiflow_protein.igso3 import sample_igso3

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

PRIOR_SCALE = 10.0
"""Standard deviation of the translation noise, Å: a unit normal in nanometres."""

START_TIME = 0.01
"""Where sampling starts: the networks have seen no smaller time."""


FRAME_PATH = Geodesic(FRAME_SPACE)
"""Straight lines of positions, SLERP of rotations; velocities in Å and body-frame radians."""


@dataclass(frozen=True)
class FrameNoise(Coupling):
    """The noise that training puts around chains: it knows the data's rotations.

    Translations are normal with 10 Å per axis, their mean taken out over the real residues of each
    sample. Rotations are the data's turned by IGSO3, ``q_1 ⊗ IGSO3(sigma)``.

    Parameters
    ----------
    rotation_sigma : float
        Concentration of the rotation noise in radians. Sampling starts from uniform rotations; at
        1.5 the two nearly agree.

    References
    ----------
    Yue et al. (2025), section 3; Yim et al., FrameFlow (arXiv 2310.05297).
    """

    rotation_sigma: float = 1.5

    def fresh(
        self, x1: State, source: Source, mask: Mask, generator: torch.Generator | None
    ) -> State:
        """Draw noise for chains; ``mask (b, n)`` is true for real residues."""
        assert isinstance(x1, dict) and not isinstance(mask, Mapping)
        z = NORMAL.sample_like(x1["trans"], generator=generator)
        rot, sigma = x1["rot"], self.rotation_sigma
        turn = sample_igso3(rot.shape[:-1], sigma, generator=generator, device=rot.device)
        assert isinstance(z, Tensor)
        return {
            "trans": PRIOR_SCALE * centre(z, mask),
            "rot": quat_multiply(rot, turn.to(rot.dtype)),
        }


def backbone_flow(*, rotation_sigma: float = 1.5, density: TimeDensity | None = None) -> Flow:
    """Return the flow of ReQFlow: a network that predicts clean frames, on geodesics.

    Parameters
    ----------
    rotation_sigma : float
        Of :class:`FrameNoise`.
    density : TimeDensity, optional
        Law of the time; uniform on [0.01, 0.99] if absent, as published.
    """
    return Flow(
        path=FRAME_PATH,
        prediction=Data(),
        coupling=FrameNoise(rotation_sigma),
        density=density or Uniform(START_TIME, 1 - START_TIME),
    )


class RotationSchedule(Protocol):
    """How far rotations go in a step while translations go ``h / (1 - start)`` of their way."""

    def fraction(self, start: float, stop: float) -> float:
        """Return the part of the remaining geodesic to the predicted rotation to cover."""
        ...


@dataclass(frozen=True)
class LinearSchedule:
    """Rotations keep pace with translations, as in training."""

    def fraction(self, start: float, stop: float) -> float:
        """Return ``h / (1 - start)``."""
        return (stop - start) / (1 - start)


@dataclass(frozen=True)
class ExponentialSchedule:
    """Rotations settle early, ``kappa(t) = 1 - exp(-rate t)``; the released default.

    This is the authors' Euler step, ``rate · h``, not limited: with few steps it exceeds 1 and
    rotations overshoot (10 steps at rate 10: 1.1).
    """

    rate: float = 10.0

    def fraction(self, start: float, stop: float) -> float:
        """Return ``rate · h``."""
        return self.rate * (stop - start)


@dataclass(frozen=True)
class ClampedExponentialSchedule:
    """The exponential schedule's Euler step, never past the prediction."""

    rate: float = 10.0

    def fraction(self, start: float, stop: float) -> float:
        """Return ``min(rate · h, 1)``."""
        return min(self.rate * (stop - start), 1.0)


@dataclass(frozen=True)
class ExactExponentialSchedule:
    """The exponential schedule integrated exactly for a prediction held over the step."""

    rate: float = 10.0

    def fraction(self, start: float, stop: float) -> float:
        """Return ``1 - exp(-rate h)``."""
        return -math.expm1(-self.rate * (stop - start))


@dataclass(frozen=True)
class FrameEuler(Solver):
    """Euler's method on frames, with a schedule of its own for rotations.

    With :class:`LinearSchedule` it is Euler's method of the core.
    """

    schedule: RotationSchedule = field(default_factory=ExponentialSchedule)
    order = 1
    nfe = 1
    flat_only = False
    leaves = ("state", "velocity")

    def step(  # type: ignore[override]  # schedules have one clock for all chains
        self, field: VelocityField, x: State, start: float, stop: float, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance translations by ``h v`` and rotations by the schedule's part of the way."""
        x, v = context.begin(field, x, start)
        assert isinstance(v, dict)
        h = stop - start
        scale = self.schedule.fraction(start, stop) * (1 - start) / h
        moved = context.space.move(x, {"trans": v["trans"], "rot": v["rot"] * scale}, h)
        return moved, context.remember(start, stop, state=x, velocity=v)
