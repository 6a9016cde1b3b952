"""Trajectories by rectified flow: GeoTDM.

References
----------
Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024, arXiv 2410.13027).
"""

from rectiflow_trajectories.networks import EGTN, TensorEGTN
from rectiflow_trajectories.pipeline import TrajectoryPipeline
from rectiflow_trajectories.result import Forecast, ForecastResult
from rectiflow_trajectories.settings import TrajectorySettings
from rectiflow_trajectories.trajectory import Trajectory

__all__ = [
    "EGTN",
    "Forecast",
    "ForecastResult",
    "TensorEGTN",
    "Trajectory",
    "TrajectoryPipeline",
    "TrajectorySettings",
]
