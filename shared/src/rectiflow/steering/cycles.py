"""Going back: renoising moves, cycles between two noise levels, and cyclic one-way diffusion."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from rectiflow.grids import uniform
from rectiflow.integrate import integrate
from rectiflow.paths import Linear, Path
from rectiflow.plans import Plan, plan
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import Ancestral, Euler, Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_LINEAR = Linear()


@dataclass(frozen=True)
class Renoise(Solver):
    r"""The forward process from a cleaner time t to a noisier s; no evaluation.

    .. math:: x_s = \tfrac{a_s}{a_t} x_t + \sqrt{b_s^2 - (a_s/a_t)^2\, b_t^2}\; z

    Moves of it compose: by way of u is the same law as at once. Flat spaces only; towards the
    noise only.

    Parameters
    ----------
    path : Path
    """

    path: Path = _LINEAR
    order = 1
    nfe = 0
    traceable = False

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Put noise on ``x``; see :meth:`Solver.step`."""
        if isinstance(start, Tensor) or isinstance(stop, Tensor) or stop >= start:
            raise ValueError(
                f"{self} goes towards the noise, got a move from {start} to {stop}; expected "
                "numbers with stop < start."
            )
        if context.noise is None:
            raise ValueError(f"{self} draws noise; expected noise=KeyedNoise(seed, samples).")
        kept, level = renoising(self.path, start, stop)
        return combine((kept, level), (x, context.noise.like(x))), None


def renoising(path: Path, start: float, stop: float) -> tuple[float, float]:
    """Return what is kept of a state and the level of the noise that is added."""
    here, there = path.coeffs(start), path.coeffs(stop)
    ratio = there.a / here.a
    return ratio, math.sqrt(max(there.b**2 - ratio**2 * here.b**2, 0.0))


def cycles(up: Iterable[float], solver: Solver, count: int, *, path: Path = _LINEAR) -> Plan:
    """Return a plan that begins and ends at the last time of a grid, and goes back in between.

    Parameters
    ----------
    up : iterable of float
        From the noisier time to the cleaner one.
    solver : Solver
        Of the way up.
    count : int
        Cycles, each of one renoising move and the grid.
    path : Path
    """
    times = list(up)
    if count < 1:
        raise ValueError(f"cycles must be at least 1, got {count}.")
    once = plan([times[-1], times[0]], Renoise(path)) + plan(times, solver)
    whole = once
    for _ in range(count - 1):
        whole = whole + once
    return whole


def one_way(
    field: VelocityField,
    background: Tensor,
    patch: Tensor,
    keep: Tensor,
    *,
    noise: KeyedNoise,
    steps: int = 10,
    count: int = 10,
    turn: tuple[float, float] = (0.3, 0.5),
    again: float = 0.6,
    eta: float = 0.1,
) -> Tensor:
    """Cyclic one-way diffusion: grow a sample around a patch of data, which is held.

    The patch is inverted once, level by level; the background to the cleaner level of the cycles.
    Each cycle renoises, samples with fresh noise, and overwrites the patch after every step by its
    state of that level, so that it tells the rest and nothing tells it. The patch is overwritten
    once more on the way to the data, and settles in.

    Parameters
    ----------
    field : VelocityField
        On the straight path.
    background, patch : Tensor, shape (b, *event)
        A neutral sample with the patch in it, and one whose patch counts.
    keep : Tensor
        True on the patch.
    noise : KeyedNoise
    steps : int, default 10
        Of the whole way from noise to data.
    count : int, default 10
        Cycles.
    turn : tuple of float, default (0.3, 0.5)
        Noisier and cleaner time of the cycles.
    again : float, default 0.6
        Time of the last overwriting.
    eta : float, default 0.1
        Share of fresh noise on the last stretch.

    References
    ----------
    Wang et al., "Diffusion in Diffusion: Cyclic One-Way Diffusion for Text-Vision-Conditioned
    Generation" (ICLR 2024).
    """
    from rectiflow.inverse.consistency import Recording, Replacement

    low, high = turn
    if not 0 < low < high < again < 1:
        raise ValueError(f"times must grow in (0, 1), got {turn} and {again}.")

    def between(start: float, stop: float) -> list[float]:
        return uniform(max(1, round(steps * (stop - start))), t_min=start, t_max=stop)

    up = list(between(low, high))
    levels = [*up, again, 1.0]
    states = Recording()
    integrate(field, patch, plan(levels[::-1], Euler()), hook=states)
    held = Replacement(keep, states.get)
    x = integrate(field, background, plan(between(high, 1.0)[::-1], Euler()))
    x = integrate(field, x, cycles(up, Ancestral(1.0), count), noise=noise, hook=held)
    end = plan([*between(high, again), *between(again, 1.0)[1:]], Ancestral(eta))
    return integrate(field, x, end, noise=noise.later(10_000), hook=held)
