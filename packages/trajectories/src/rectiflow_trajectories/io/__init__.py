"""Files of trajectories, read and written."""

from rectiflow_trajectories.io.arrays import write_runs
from rectiflow_trajectories.io.read import SUFFIXES, TrajectoryFileError, read_trajectories
from rectiflow_trajectories.io.write import write_forecast

__all__ = [
    "SUFFIXES",
    "TrajectoryFileError",
    "read_trajectories",
    "write_forecast",
    "write_runs",
]
