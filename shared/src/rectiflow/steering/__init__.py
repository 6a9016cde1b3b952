"""Steering: corrections of a run towards what is known about its result."""

from rectiflow.steering.steer import Steer

__all__ = ["Steer"]
