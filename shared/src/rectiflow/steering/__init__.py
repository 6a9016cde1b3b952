"""Steering: corrections of a run towards what is known about its result, and search."""

from rectiflow.steering.cycles import Renoise, cycles, one_way
from rectiflow.steering.search import (
    Beam,
    BestOfN,
    Compared,
    Found,
    LookAhead,
    Particles,
    Strategy,
    compare_search,
    search,
)
from rectiflow.steering.steer import Steer

__all__ = [
    "Beam",
    "BestOfN",
    "Compared",
    "Found",
    "LookAhead",
    "Particles",
    "Renoise",
    "Steer",
    "Strategy",
    "compare_search",
    "cycles",
    "one_way",
    "search",
]
