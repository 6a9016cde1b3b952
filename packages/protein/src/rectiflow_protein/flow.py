"""What flows on proteins: residue frames, from noise to a chain.

Translations go along straight lines, rotations along SLERP geodesics, both at the same time t,
0 noise and 1 data. The network predicts the clean frames; the flow's velocity follows from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from rectiflow.solvers import Context, Memory, Solver
from rectiflow.spaces import quat_multiply
from rectiflow.states import State
from rectiflow.time_density import TimeDensity, Uniform
from torch import Tensor

from rectiflow_protein.frames import FRAME_SPACE, centre
from rectiflow_protein.igso3 import sample_igso3

if TYPE_CHECKING:
    from jaxtyping import Float
    from rectiflow.fields import VelocityField

PRIOR_SCALE = 10.0
"""Standard deviation of the translation noise, Å: a unit normal in nanometres."""

START_TIME = 0.01
"""Where sampling starts: the networks have seen no smaller time."""


@dataclass(frozen=True)
class BackboneFlow:
    """How training corrupts chains.

    Parameters
    ----------
    density : TimeDensity
        Law of the time; uniform on [0.01, 0.99].
    rotation_sigma : float
        Concentration of the rotation noise in radians. Training noise is ``q_1 ⊗ IGSO3(sigma)``;
        sampling starts from uniform rotations. At 1.5 the two nearly agree.

    References
    ----------
    Yue et al. (2025), section 3; Yim et al., FrameFlow (arXiv 2310.05297).
    """

    density: TimeDensity = field(default_factory=lambda: Uniform(START_TIME, 1 - START_TIME))
    rotation_sigma: float = 1.5

    def noise(
        self,
        x1: dict[str, Tensor],
        *,
        res_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Draw the training noise that belongs to chains ``x1``.

        The mean of the translations is taken out over the real residues of each sample.
        """
        trans, rot = x1["trans"], x1["rot"]
        z = torch.randn(trans.shape, generator=generator, device=trans.device, dtype=trans.dtype)
        turn = sample_igso3(
            rot.shape[:-1], self.rotation_sigma, generator=generator, device=rot.device
        )
        return {
            "trans": PRIOR_SCALE * centre(z, res_mask),
            "rot": quat_multiply(rot, turn.to(rot.dtype)),
        }

    def corrupt(
        self,
        x1: dict[str, Tensor],
        x0: dict[str, Tensor],
        t: Float[Tensor, " b"],
        *,
        res_mask: Float[Tensor, "b n"],
        diffuse_mask: Float[Tensor, "b n"],
    ) -> dict[str, Tensor]:
        """Interpolate at time t; given residues keep their data frames, padding gets none.

        Padded residues hold position zero and, unless they are given, the identity rotation.
        """
        xt = FRAME_SPACE.geodesic(x0, x1, t)
        assert isinstance(xt, dict)
        moving, real = diffuse_mask.unsqueeze(-1), res_mask.unsqueeze(-1)
        trans = (xt["trans"] * moving + x1["trans"] * (1 - moving)) * real
        identity = xt["rot"].new_tensor([1.0, 0.0, 0.0, 0.0])
        rot = torch.where(real > 0, xt["rot"], identity)
        return {"trans": trans, "rot": rot * moving + x1["rot"] * (1 - moving)}


def endpoint_velocity(
    x: dict[str, Tensor], x1: dict[str, Tensor], t: float | Tensor
) -> dict[str, Tensor]:
    """Return the velocity that takes ``x`` at time t to ``x1`` at time 1 along geodesics.

    Å and radians (body frame) per unit of time. Singular at t = 1.
    """
    v = FRAME_SPACE.log(x, x1)
    assert isinstance(v, dict)
    return {name: part / (1 - t) for name, part in v.items()}


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
