"""A folder of prepared flows: shards of trajectories, the table beside them, and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.table import read_table

from rectiflow_pde.mesh import Mesh
from rectiflow_pde.trajectory import FIELDS, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

STATISTICS = "statistics.csv"
"""Mean and standard deviation of each field over the training split."""

NUMBERS = (
    *("reynolds", "radius", "centre_x", "centre_y", "u_mean", "viscosity", "density"),
    *("length", "height", "strouhal", "frequency", "cd_mean", "cl_amplitude"),
)
"""Columns that are :attr:`Trajectory.parameters`; NaN where not known. SI units."""

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("name", "split", "source", "regime", "caption"), str),
    **dict.fromkeys(("frames", "nodes"), int),
    **dict.fromkeys(("t0", "frame_step"), float),
    **dict.fromkeys(NUMBERS, float),
}
"""Columns of ``metadata.csv``; ``regime`` is steady, settling, growing, shedding or unknown."""


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each field, in its unit.

    A field that never changes has the deviation 1 here, so that normalising keeps it finite.

    Attributes
    ----------
    mean, std : ndarray, shape (3,), float64
        Of ``u, v, p``.
    """

    mean: Float[np.ndarray, " 3"]
    std: Float[np.ndarray, " 3"]


class PreparedFlows(Prepared, Sequence[Trajectory]):
    """What ``rectiflow pde solve`` or ``prepare`` left in a folder.

    Records hold ``points (n, 2)`` float64, ``triangles (m, 3)``, ``node_type (n,)``, ``times
    (f,)`` float64 and ``fields (f n, 3)`` float32, frames one after the other: meshes and numbers
    of frames may differ.

    Examples
    --------
    >>> from rectiflow_pde.data import PreparedFlows
    >>> flows = PreparedFlows("shards")  # doctest: +SKIP
    >>> flows[0].fields["u"].shape, flows.table["reynolds"][0]  # doctest: +SKIP
    """

    columns = COLUMNS
    unit = "flow"

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        numbers = {name: float(self.table[name][row]) for name in NUMBERS}
        known = {name: value for name, value in numbers.items() if not np.isnan(value)}
        return unpack(self.records[row], known, str(self.table["caption"][row]))

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and deviation of each field over the training split."""
        columns = {"field": str, "mean": float, "std": float}
        table = read_table(self.folder / STATISTICS, columns)
        order = [table["field"].tolist().index(name) for name in FIELDS]
        return Statistics(table["mean"][order], table["std"][order])


def pack(trajectory: Trajectory) -> dict[str, Tensor]:
    """Make the record of a trajectory."""
    mesh = trajectory.mesh
    return {
        "points": torch.from_numpy(mesh.points),
        "triangles": torch.from_numpy(mesh.triangles),
        "node_type": torch.from_numpy(mesh.node_type),
        "times": torch.from_numpy(trajectory.times),
        "fields": torch.from_numpy(trajectory.stacked.reshape(-1, len(FIELDS))),
    }


def unpack(
    record: Mapping[str, Tensor], parameters: Mapping[str, float], caption: str = ""
) -> Trajectory:
    """Make the trajectory of a record."""
    read = {key: value.numpy() for key, value in record.items()}
    mesh = Mesh(read["points"], read["triangles"], read["node_type"])
    stacked = read["fields"].reshape(len(read["times"]), mesh.n_nodes, len(FIELDS))
    fields = {name: stacked[..., i] for i, name in enumerate(FIELDS)}
    return Trajectory(mesh, read["times"], fields, parameters, caption)
