"""What a move costs besides the field: few operations, and never a wait for the device."""

from __future__ import annotations

import re

import pytest
import torch
from rectiflow.grids import log_snr, uniform
from rectiflow.guidance import cfg, guided
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    Adams,
    Ancestral,
    Context,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    Euler,
    FireFlow,
    Heun,
    InterpolantSDE,
    Midpoint,
    PseudoCorrector,
)
from rectiflow.steering import Steer
from torch.utils._python_dispatch import TorchDispatchMode


def named(value: object) -> str:
    """Name a test by a solver without the address of a function in it: workers must agree."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


DETERMINISTIC = [
    Euler(),
    Midpoint(),
    Heun(),
    RK4(),
    FireFlow(),
    PseudoCorrector(),
    Adams(2),
    Adams(4),
    GHVB(2, 0.8),
    HB(2, 0.8),
    BDIA(),
    BDIA(0.8),
    DDIM(),
    DPMSolver2(),
    DPMSolver3(),
    DPMSolverPP2S(),
    DPMSolverPP2M(),
    DPMSolverPP3M(),
    Steer(FireFlow(), lambda x, t, v: (x + 0.1 * v, v)),
]


def field(x, t):
    return -x


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("solver", "most"),
    [
        (Euler(), 1),
        (Midpoint(), 2),
        (Heun(), 3),
        (RK4(), 7),
        (FireFlow(), 2),
        (PseudoCorrector(), 3),
        (BDIA(), 1),
        (BDIA(0.8), 3),
        (Adams(2), 2),
        (Adams(3, start=None), 3),
        (GHVB(2, 0.8), 4),
        (HB(2, 0.8), 5),
        (DDIM(), 2),
        (DPMSolver2(), 6),
        (DPMSolver3(), 12),
        (DPMSolverPP2S(), 6),
        (DPMSolverPP2M(), 6),
        (DPMSolverPP3M(), 7),
        (Ancestral(), 5),
        (InterpolantSDE(1.0), 5),
    ],
    ids=named,
)
def test_operations_of_a_move(solver, most):
    """One for each velocity that enters a state, and no others."""

    def counted(steps):
        x, moves = torch.zeros(4, 2), plan(log_snr(steps, 0.1, 0.9), solver)
        noise = KeyedNoise(0, range(4))
        noise.like(x)  # made for many moves at once
        with Operations() as operations:
            integrate(lambda x, t: x, x, moves, noise=noise)
        return operations.count

    assert (counted(30) - counted(20)) / 10 <= most


@pytest.mark.parametrize("solver", [*DETERMINISTIC, Ancestral(), InterpolantSDE(1.0)], ids=named)
@pytest.mark.parametrize("grid", [uniform(9), log_snr(9, 0.1, 0.9)], ids=["ends", "inside"])
def test_no_move_reads_the_device(solver, grid):
    """Tensors without storage cannot be read at all."""
    x = torch.empty(4, 2, device="meta")
    end = integrate(field, x, plan(grid, solver), noise=KeyedNoise(0, range(4)))
    assert end.shape == x.shape


@pytest.mark.parametrize("solver", DETERMINISTIC, ids=named)
def test_no_move_of_rows_reads_the_device(solver):
    x, memory = torch.empty(2, 3, device="meta"), None
    guide = cfg(lambda x, t: 2 * x, 3.0, interval=(0.2, 0.5))
    grids = zip(uniform(9), log_snr(9, 0.1, 0.9), strict=True)
    times = [torch.tensor(row, dtype=torch.float64) for row in grids]
    moves = [m.solver for m in plan(uniform(9), solver)]
    for one, start, stop in zip(moves, times, times[1:], strict=False):
        x, memory = one.step(guided(field, guide), x, start, stop, Context(memory=memory))
    assert x.device.type == "meta"
