"""What a simulation returns, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.results import Result
from rectiflow.storage.files import whole_file

from rectiflow_pde.trajectory import FIELDS, Trajectory

SUFFIXES = (".npz", ".pvd", ".xdmf")
"""Of files of a flow: numpy's, and ParaView's."""


@dataclass(frozen=True)
class SimulationResult(Result):
    """Simulated flows and how they were made.

    Attributes
    ----------
    indices : list of int
        Number of each sample.
    flows : list of Trajectory
    warnings : list of str
        How the request was understood, and where it lies outside of the training.
    """

    indices: list[int]
    flows: list[Trajectory]
    warnings: list[str]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation between samples, shape (frames, nodes, 3); zeros for one."""
        return np.std([flow.stacked for flow in self.flows], 0)

    def write(self, folder: Path, suffix: str = "", animate: bool = False) -> list[dict[str, Any]]:
        """Write each flow, and with ``animate`` a GIF of it as well."""
        from rectiflow_pde.io.write import write_trajectory

        kind = suffix or SUFFIXES[0]
        if kind not in SUFFIXES:
            raise ValueError(f"flows are written as {', '.join(SUFFIXES)}, got {kind!r}.")
        rows = []
        for index, flow in zip(self.indices, self.flows, strict=True):
            name = f"flow_{index:04d}"
            if kind == ".npz":
                write_npz(flow, folder / f"{name}.npz")
                files = [f"{name}.npz"]
            else:
                written = write_trajectory(flow, folder / f"{name}{kind}")
                files = [Path(path).relative_to(folder).as_posix() for path in written]
            if animate:
                from rectiflow_pde.plots import save_animation

                save_animation([("simulated", flow)], folder / f"{name}.gif")
                files.append(f"{name}.gif")
            told = {key: round(value, 6) for key, value in flow.parameters.items()}
            rows.append({"name": name, "files": files, "parameters": told})
            rows[-1]["warnings"] = self.warnings
        return rows


def write_npz(flow: Trajectory, path: Path) -> None:
    """Write a flow as arrays: mesh, times, fields, parameters with their names."""
    mesh = flow.mesh
    arrays = {
        "points": mesh.points,
        "triangles": mesh.triangles,
        "node_type": mesh.node_type,
        "times": flow.times,
        **{name: np.asarray(flow.fields[name], np.float32) for name in FIELDS},
        "parameter_names": np.array(sorted(flow.parameters)),
        "parameters": np.array([flow.parameters[name] for name in sorted(flow.parameters)]),
        "caption": np.array(flow.caption),
    }
    with whole_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_npz(path: Path) -> Trajectory:
    """Read a flow that :func:`write_npz` wrote.

    Raises
    ------
    ValueError
        If the file is not of that form.
    """
    from rectiflow_pde.mesh import Mesh

    try:
        with np.load(path, allow_pickle=False) as read:
            mesh = Mesh(read["points"], read["triangles"], read["node_type"])
            fields = {name: read[name] for name in FIELDS}
            names, values = read["parameter_names"].tolist(), read["parameters"].tolist()
            told = dict(zip(names, values, strict=True))
            return Trajectory(mesh, read["times"], fields, told, str(read["caption"]))
    except (KeyError, OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is not a flow that `rectiflow pde simulate` wrote ({error}); expected its "
            ".npz."
        ) from error
