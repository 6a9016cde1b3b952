"""Which solver suits a given field: their errors at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow.fields import counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import (
    BDIA,
    GHVB,
    RK4,
    Adams,
    DPMSolverPP2M,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
    PseudoCorrector,
    Solver,
)
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, leaves

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_FLAT = Euclidean()
_COMMON: tuple[Solver, ...] = (
    Euler(),
    Midpoint(),
    Heun(),
    RK4(),
    FireFlow(),
    PseudoCorrector(),
    BDIA(),
    Adams(2),
    Adams(3),
    GHVB(2, 0.8),
    DPMSolverPP2M(),
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One solver at one budget.

    Attributes
    ----------
    budget : int
        Evaluations allowed.
    nfe : int
        Evaluations made, at most the budget.
    steps : int
        Steps taken.
    error : float
        Root-mean-square distance to the reference solution.
    solver : Solver
    """

    budget: int
    nfe: int
    steps: int
    error: float
    solver: Solver


def compare_solvers(
    field: VelocityField,
    x0: State,
    budgets: Sequence[int],
    *,
    solvers: Sequence[Solver] = _COMMON,
    grid: Callable[[int], Sequence[float]] = uniform,
    space: Space = _FLAT,
    reference_steps: int | None = None,
) -> list[Comparison]:
    """Integrate a field with many solvers at equal numbers of evaluations.

    Parameters
    ----------
    field : VelocityField
        The velocity to sample with, guidance included.
    x0 : State
        A batch of starting points.
    budgets : sequence of int
        Evaluations to allow, for example ``[5, 10, 20]``.
    solvers : sequence of Solver
        What to compare; the common ones by default. On a curved space those that need a flat one
        are left out.
    grid : callable, default :func:`rectiflow.grids.uniform`
        Makes a grid from a number of steps.
    space : Space
        How points move.
    reference_steps : int, optional
        Steps of the reference solution, fourth-order (midpoint on a curved space); 8 times the
        largest budget by default.

    Returns
    -------
    list of Comparison
        By budget, the smallest error first. Solvers that cannot make one step are left out.

    Raises
    ------
    ValueError
        When there is no budget, or one below 1.

    Examples
    --------
    >>> import torch
    >>> best = compare_solvers(lambda x, t: -x, torch.ones(1, 1), [8])[0]
    >>> best.solver, best.steps, best.nfe
    (RK4(), 2, 8)
    """
    if not budgets or min(budgets) < 1:
        raise ValueError(f"budgets must be 1 or more, got {list(budgets)}; expected e.g. [5, 10]")
    flat = space.is_flat
    fine = reference_steps or 8 * max(budgets)
    reference = integrate(field, x0, plan(grid(fine), RK4() if flat else Midpoint()), space=space)
    rows = []
    for budget in budgets:
        for solver in solvers:
            steps = _affordable(solver, grid, budget)
            if steps == 0 or (solver.flat_only and not flat):
                continue
            field_counted = counted(field)
            end = integrate(field_counted, x0, plan(grid(steps), solver), space=space)
            error = _rms(space.log(reference, end))
            rows.append(Comparison(budget, field_counted.calls, steps, error, solver))
    return sorted(rows, key=lambda row: (row.budget, row.error))


def _affordable(solver: Solver, grid: Callable[[int], Sequence[float]], budget: int) -> int:
    """Return the most steps whose evaluations stay within the budget."""
    for steps in range(budget // max(solver.nfe, 1), 0, -1):
        if plan(grid(steps), solver).nfe <= budget:
            return steps
    return 0


def _rms(x: State) -> float:
    parts = leaves(x)
    total = sum(part.double().square().sum().item() for part in parts)
    return (total / sum(part.numel() for part in parts)) ** 0.5
