"""What flows on proteins: residue frames, from noise to a chain.

Translations go along straight lines, rotations along SLERP geodesics, both at the same time t,
0 noise and 1 data. The network predicts the clean frames; the flow's velocity follows from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rectiflow.couplings import CosineAnnealing, Coupling, Schedule
from rectiflow.flow import Flow
from rectiflow.geodesics import Geodesic
from rectiflow.predictions import Data
from rectiflow.premetrics import Mask, MeanSquared, PartWeights
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


@dataclass(frozen=True)
class AnnealedFrames(FrameNoise):
    r"""Stored pairs of chains whose noise is at first free of them: SlimFlow's annealing on frames.

    With fresh noise :math:`x_0'` translations begin at
    :math:`\sqrt{1 - \beta^2}\, x_0 + \beta\, x_0'`. Rotations do not add up: each is fresh with
    probability :math:`\beta^2`, else the stored one. So the law of the noise stays what it was at
    every :math:`\beta`.

    Parameters
    ----------
    beta : callable
        Schedule over training steps, from 1 to 0.
    step : int
        The step in force.

    References
    ----------
    Zhu et al., "SlimFlow" (ECCV 2024), Eq. (8), on flat spaces.
    """

    beta: Schedule = field(default_factory=lambda: CosineAnnealing(1000))
    step: int = 0

    def at(self, step: int) -> AnnealedFrames:
        """Return the coupling at a training step."""
        return replace(self, step=step)

    def draw(
        self,
        x1: State,
        source: Source,
        *,
        x0: State | None = None,
        mask: Mask = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Return the noise of chains: fresh, or stored and in part fresh."""
        beta = self.beta(self.step)
        if x0 is not None and beta == 0:
            return x0
        fresh: Any = self.fresh(x1, source, mask, generator)
        if x0 is None:
            return fresh
        assert isinstance(x0, dict)
        size = x0["rot"].shape[:-1]
        is_new = torch.rand(size, generator=generator, device=x0["rot"].device) < beta**2
        return {
            "trans": math.sqrt(1 - beta**2) * x0["trans"] + beta * fresh["trans"],
            "rot": torch.where(is_new[..., None], fresh["rot"], x0["rot"]),
        }


def backbone_flow(
    *,
    rotation_sigma: float = 1.5,
    density: TimeDensity | None = None,
    coupling: Coupling | None = None,
) -> Flow:
    """Return the flow of ReQFlow: a network that predicts clean frames, on geodesics.

    Parameters
    ----------
    rotation_sigma : float
        Of :class:`FrameNoise`.
    density : TimeDensity, optional
        Law of the time; uniform on [0.01, 0.99] if absent, as published.
    coupling : Coupling, optional
        :class:`FrameNoise` if absent.
    """
    return Flow(
        path=FRAME_PATH,
        prediction=Data(),
        coupling=coupling or FrameNoise(rotation_sigma),
        density=density or Uniform(START_TIME, 1 - START_TIME),
    )


def backbone_map_flow(*, rotation_sigma: float = 1.5, late: float = 0.9) -> Flow:
    """Return the flow of ReQFlow for networks of maps, whose loss is on velocities.

    Lengths count in nanometres, as in :class:`~rectiflow_protein.losses.BackboneLoss`, and what is
    said after ``late`` counts by its error in the chain.

    Parameters
    ----------
    rotation_sigma : float
        Of :class:`FrameNoise`.
    late : float
        Time in [0, 1).
    """
    cost = PartWeights({"trans": (0.06, MeanSquared()), "rot": (3.0, MeanSquared())})
    flow = backbone_flow(rotation_sigma=rotation_sigma)
    return replace(flow, premetric=cost, weight=partial(_late_weight, late=late))


def _late_weight(t: Tensor, late: float) -> Tensor:
    return ((1 - t) / (1 - t.clamp_max(late))).square()


class RotationSchedule(Protocol):
    """How far rotations go in a step while translations go ``h / (1 - start)`` of their way."""

    def fraction(self, start: float, stop: float) -> float:
        """Return the part of the remaining geodesic to the predicted rotation to cover."""
        ...

    def remaining(self, t: float) -> float:
        """Return the part of a whole geodesic that is left at time t."""
        ...


@dataclass(frozen=True)
class LinearSchedule:
    """Rotations keep pace with translations, as in training."""

    def fraction(self, start: float, stop: float) -> float:
        """Return ``h / (1 - start)``."""
        return (stop - start) / (1 - start)

    def remaining(self, t: float) -> float:
        """Return ``1 - t``."""
        return 1 - t


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

    def remaining(self, t: float) -> float:
        """Return ``exp(-rate t)``."""
        return math.exp(-self.rate * t)


@dataclass(frozen=True)
class ClampedExponentialSchedule(ExponentialSchedule):
    """The exponential schedule's Euler step, never past the prediction."""

    def fraction(self, start: float, stop: float) -> float:
        """Return ``min(rate · h, 1)``."""
        return min(self.rate * (stop - start), 1.0)


@dataclass(frozen=True)
class ExactExponentialSchedule(ExponentialSchedule):
    """The exponential schedule integrated exactly for a prediction held over the step."""

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


@dataclass(frozen=True)
class FrameAncestral(Solver):
    r"""Ancestral sampling on frames: each step draws part of the noise that is left afresh.

    With the predicted chain D, what is left of the noise is ``E = (x - t D) / (1 - t)`` of the
    translations, and the rotation vector ``r`` from the predicted to the present rotation:

    .. math::
        x' = t' D + (1 - t') \left(\rho E + \sqrt{1 - \rho^2}\, \sigma_x z\right), \quad
        q' = D \otimes \exp\left((1 - f) \rho\, r + \sqrt{1 - \rho^2}\, k(t') \sigma_r z\right)

    with f the part of the way that the schedule covers, k what it leaves, and normal z. The kept
    part is ``rho² = 1 - temperature² (1 - (t (1 - t') / (t' (1 - t)))²)``, DDIM's: temperature 0
    is :class:`FrameEuler`, 1 is DDPM on translations. On rotations it treats the noise as normal in
    the tangent space, which near the prediction it is.

    Parameters
    ----------
    temperature : float
        In [0, 1].
    schedule : RotationSchedule
        As in :class:`FrameEuler`.
    translation_sigma, rotation_sigma : float
        Å and radians per axis, of the noise in training.

    References
    ----------
    Song et al., "Denoising Diffusion Implicit Models" (ICLR 2021), Eq. (16).
    """

    temperature: float = 0.5
    schedule: RotationSchedule = field(default_factory=ExponentialSchedule)
    translation_sigma: float = PRIOR_SCALE
    rotation_sigma: float = 1.5
    order = 1
    nfe = 1
    flat_only = False
    traceable = False
    leaves = ("state", "velocity")

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 1:
            raise ValueError(
                f"temperature must lie in [0, 1], got {self.temperature}; 0 is the flow itself, "
                "1 the most noise that the steps can take in."
            )

    def step(  # type: ignore[override]  # schedules have one clock for all chains
        self, field: VelocityField, x: State, start: float, stop: float, context: Context
    ) -> tuple[State, Memory | None]:
        """Go for the predicted chain, with noise in part fresh."""
        if context.noise is None:
            raise ValueError(
                "ancestral sampling draws noise, got none; expected integrate(..., "
                "noise=KeyedNoise(seed, samples))."
            )
        space = context.space
        x, v = context.begin(field, x, start)
        z = context.noise.like(v)
        data = space.move(x, v, 1 - start)
        left: Any = space.log(data, x)
        assert isinstance(data, dict)
        assert isinstance(z, dict)
        kept, fresh = self._parts(start, stop)
        turned = kept * (1 - self.schedule.fraction(start, stop)) * left["rot"]
        rest = {
            "trans": (1 - stop) * fresh * self.translation_sigma * z["trans"]
            + kept * (1 - stop) / (1 - start) * left["trans"]
            - (1 - kept) * (1 - stop) * data["trans"],
            "rot": turned + fresh * self.schedule.remaining(stop) * self.rotation_sigma * z["rot"],
        }
        moved = space.move(data, rest, 1.0)
        return moved, context.remember(start, stop, state=x, velocity=v)

    def _parts(self, start: float, stop: float) -> tuple[float, float]:
        """Return how much of the noise is kept and how much is drawn; their squares sum to 1."""
        lost = 1 - (start * (1 - stop) / (stop * (1 - start))) ** 2
        fresh = self.temperature * math.sqrt(lost)
        return math.sqrt(1 - fresh**2), fresh
