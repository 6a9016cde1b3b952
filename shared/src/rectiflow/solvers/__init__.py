"""Solvers: rules that advance a state along a velocity field, one family per file."""

from rectiflow.solvers.adams import GHVB, HB, Adams
from rectiflow.solvers.base import Move, Solver, combine
from rectiflow.solvers.bdia import BDIA
from rectiflow.solvers.context import Context, Memory
from rectiflow.solvers.dopri import Dopri5
from rectiflow.solvers.empirical import DPMSolverV3, EmpiricalStatistics, estimate_statistics
from rectiflow.solvers.exponential import (
    DDIM,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    fast_plan,
)
from rectiflow.solvers.reuse import FireFlow, PseudoCorrector, Refine
from rectiflow.solvers.runge_kutta import RK4, ButcherTableau, Euler, Heun, Midpoint, RungeKutta
from rectiflow.solvers.stochastic import Ancestral, InterpolantSDE

__all__ = [
    "BDIA",
    "DDIM",
    "GHVB",
    "HB",
    "RK4",
    "Adams",
    "Ancestral",
    "ButcherTableau",
    "Context",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "DPMSolverV3",
    "Dopri5",
    "EmpiricalStatistics",
    "Euler",
    "FireFlow",
    "Heun",
    "InterpolantSDE",
    "Memory",
    "Midpoint",
    "Move",
    "PseudoCorrector",
    "Refine",
    "RungeKutta",
    "Solver",
    "combine",
    "estimate_statistics",
    "fast_plan",
]
