"""Solvers: rules that advance a state along a velocity field, one family per file."""

from rectiflow.solvers.adams import Adams, GeneralisedHeavyBall, HeavyBall, Momentum, Nesterov
from rectiflow.solvers.base import History, Move, Record, Solver, is_flat
from rectiflow.solvers.bidirectional import Bidirectional, Pair
from rectiflow.solvers.exponential import (
    DPMSolver,
    DPMSolverPP,
    Exponential,
    MultistepDPMSolverPP,
    fast_plan,
)
from rectiflow.solvers.reuse import PseudoCorrector, Refine, ReusedMidpoint
from rectiflow.solvers.runge_kutta import RK4, ButcherTableau, Euler, Heun, Midpoint, RungeKutta

__all__ = [
    "RK4",
    "Adams",
    "Bidirectional",
    "ButcherTableau",
    "DPMSolver",
    "DPMSolverPP",
    "Euler",
    "Exponential",
    "GeneralisedHeavyBall",
    "HeavyBall",
    "Heun",
    "History",
    "Midpoint",
    "Momentum",
    "Move",
    "MultistepDPMSolverPP",
    "Nesterov",
    "Pair",
    "PseudoCorrector",
    "Record",
    "Refine",
    "ReusedMidpoint",
    "RungeKutta",
    "Solver",
    "fast_plan",
    "is_flat",
]
