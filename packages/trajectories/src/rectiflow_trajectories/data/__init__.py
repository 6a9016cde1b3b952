"""Trajectories to train on: prepared folders, and batches of them."""

from rectiflow_trajectories.data.prepare import Windows, prepare
from rectiflow_trajectories.data.prepared import PreparedTrajectories

__all__ = ["PreparedTrajectories", "Windows", "prepare"]
