"""Reading meshes, fields, series and trajectories of others, and writing for ParaView."""

from rectiflow_pde.io.meshes import Boundaries, MeshFile, read_mesh
from rectiflow_pde.io.raw import RawFlow, trajectory_of
from rectiflow_pde.io.series import FieldNames, read_series
from rectiflow_pde.io.trajectories import read_npz, read_trajectories
from rectiflow_pde.io.write import write_trajectory

__all__ = [
    "Boundaries",
    "FieldNames",
    "MeshFile",
    "RawFlow",
    "read_mesh",
    "read_npz",
    "read_series",
    "read_trajectories",
    "trajectory_of",
    "write_trajectory",
]
