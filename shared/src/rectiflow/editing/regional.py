"""Edits of a region: noise, guidance and time travel inside, and nothing outside (DiffEditor)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.guidance import Guide, guided
from rectiflow.integrate import integrate
from rectiflow.inverse.consistency import Recording, Replacement
from rectiflow.paths import Linear, Path
from rectiflow.plans import Plan, plan, reverse
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import Ancestral, Euler, Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.solvers.exponential import first_order
from rectiflow.states import State, map_state

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_LINEAR = Linear()
_EULER = Euler()


@dataclass(frozen=True, eq=False)
class RegionalNoise(Solver):
    """Ancestral steps inside of a region, deterministic ones outside: bit for bit those of DDIM.

    Parameters
    ----------
    region : Tensor
        True where noise is drawn; broadcast to the states.
    eta : float, default 0.4
        In ``[0, 1]``: share of fresh noise.
    path : Path
    """

    region: Tensor
    eta: float = 0.4
    path: Path = _LINEAR
    order = 1
    nfe = 1
    traceable = False
    leaves = ("state", "velocity")

    def __post_init__(self) -> None:
        Ancestral(self.eta, self.path)  # which checks eta

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        if isinstance(start, Tensor) or isinstance(stop, Tensor) or stop < start:
            raise ValueError(f"{type(self).__name__} samples towards the data, with numbers.")
        x, v = context.begin(field, x, start)
        left = context.remember(start, stop, state=x, velocity=v)
        plain = combine(first_order(self.path, start, stop), (x, v))
        h = self.path.lam(stop) - self.path.lam(start)
        kept = math.sqrt(1.0 + self.eta**2 * math.expm1(-2 * h))
        fresh = self.path.coeffs(stop).b * math.sqrt(1.0 - kept**2)
        if fresh == 0.0:
            return plain, left
        if context.noise is None:
            raise ValueError("regional noise is drawn, got none; expected noise=KeyedNoise(...).")
        weights = (*first_order(self.path, start, stop, kept), fresh)
        noisy = combine(weights, (x, v, context.noise.like(x)))
        return map_state(lambda a, b: torch.where(self.region.to(a.device), a, b), noisy, plain), (
            left
        )


def regional_guide(
    edit: Callable[[Tensor], Tensor],
    content: Callable[[Tensor], Tensor],
    region: Tensor,
    weight: float | Callable[[float], float],
    *,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Guide:
    r"""Return a guide down one energy inside of a region and down another outside.

    .. math:: v \leftarrow v - c(t)\,\bigl(m\, \nabla E_{edit} + (1 - m)\, \nabla E_{content}\bigr)

    with the slopes at the data prediction. The paper adds ``g`` to the noise prediction, which on
    the straight path is ``c(t) = w / t``.

    Parameters
    ----------
    edit, content : callable
        ``energy(data) -> (b,)``, differentiable.
    region : Tensor
        True where the edit is.
    weight : float or callable
        ``c``, a number or a function of time.
    interval : tuple of float, default (0, 1)
        Times at which it guides.
    """

    def slope(energy: Callable[[Tensor], Tensor], data: Tensor) -> Tensor:
        with torch.enable_grad():
            point = data.detach().requires_grad_()
            [found] = torch.autograd.grad(energy(point).sum(), point)
        return found

    def guide(x: State, t: float | Tensor, v: State) -> State:
        assert isinstance(x, Tensor) and isinstance(v, Tensor) and not isinstance(t, Tensor)
        if not interval[0] <= t <= interval[1]:
            return v
        data = x + (1 - t) * v
        c = weight(t) if callable(weight) else weight
        pull = torch.where(region.to(x.device), slope(edit, data), slope(content, data))
        return v - c * pull

    return guide


def time_travel(
    times: Sequence[float],
    solver: Solver,
    window: tuple[float, float],
    *,
    repeats: int = 3,
    back: Solver = _EULER,
) -> Plan:
    """Return a plan along a grid that makes each move inside of a window several times.

    Between repeats it goes back by one deterministic move.

    Parameters
    ----------
    times : sequence of float
    solver : Solver
    window : tuple of float
        Moves that lie in it are repeated.
    repeats : int, default 3
    back : Solver
        Of the way back.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")
    whole: Plan | None = None
    for start, stop in pairwise(times):
        inside = window[0] <= start and stop <= window[1]
        forth = plan([start, stop], solver)
        part = forth
        for _ in range(repeats - 1 if inside else 0):
            part = part + plan([stop, start], back) + forth
        whole = part if whole is None else whole + part
    if whole is None:
        raise ValueError("the plan is empty, got fewer than two times.")
    return whole


def edit_region(
    field: VelocityField,
    x1: Tensor,
    region: Tensor,
    *,
    times: Sequence[float],
    noise: KeyedNoise,
    source: VelocityField | None = None,
    eta: float = 0.4,
    window: tuple[float, float] = (0.2, 0.4),
    travel: tuple[float, float] = (0.4, 0.6),
    repeats: int = 3,
    guides: Sequence[Guide] = (),
) -> Tensor:
    """Edit a region of a sample; outside of it every number stays as it was.

    The sample is inverted and every level kept. On the way back noise is drawn inside of the region
    in one window, moves are repeated in another, and after each move what lies outside is put back
    from the recording, so that the region sees its true surroundings at every noise level.

    Parameters
    ----------
    field : VelocityField
        Of the edit, on the straight path.
    x1 : Tensor, shape (b, *event)
        The sample.
    region : Tensor
        True where it may change; broadcast to samples.
    times : sequence of float
        From 0, or a later time for smaller edits, to 1.
    noise : KeyedNoise
    source : VelocityField, optional
        Under which the sample is inverted; ``field`` if absent.
    eta, window
        Of :class:`RegionalNoise`, and the times at which it is used.
    travel, repeats
        Of :func:`time_travel`.
    guides : sequence of Guide
        Such as :func:`regional_guide`.

    References
    ----------
    Mou et al., "DiffEditor: Boosting Accuracy and Flexibility on Diffusion-based Image Editing"
    (CVPR 2024).
    """
    times = [float(t) for t in times]
    if times[-1] != 1.0:
        raise ValueError(f"an edit ends at the data, got times to {times[-1]}; expected 1.")
    levels = Recording()
    start = integrate(source or field, x1, reverse(plan(times, _EULER)), hook=levels)
    levels[1.0] = x1
    moves = None
    for lower, upper in pairwise(times):
        inside = window[0] <= lower and upper <= window[1]
        solver: Solver = RegionalNoise(region, eta) if inside else _EULER
        part = time_travel([lower, upper], solver, travel, repeats=repeats)
        moves = part if moves is None else moves + part
    assert moves is not None
    held = Replacement(~region.bool(), levels.get)
    return integrate(guided(field, *guides), start, moves, noise=noise, hook=held)
