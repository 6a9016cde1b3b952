"""A flow as a file has it, and what it takes to be a trajectory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.faults import FileError

from rectiflow_pde.data.captions import caption_of
from rectiflow_pde.io.boundary import inner_nodes
from rectiflow_pde.io.cells import RawMesh, clean
from rectiflow_pde.mesh import Mesh, NodeType, boundary_edges
from rectiflow_pde.metrics.boundary import mean_inflow
from rectiflow_pde.trajectory import Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from rectiflow_pde.units import Units

OFFICIAL = {0: NodeType.FLUID, 4: NodeType.INFLOW, 5: NodeType.OUTFLOW, 6: NodeType.WALL}
"""Kinds of nodes in MeshGraphNets' data; the obstacle counts as wall there."""

_EVEN = 1e-3  # steps that differ by less of their mean are even
_GAUGE = 10.0  # a pressure so many times its range above 0 at the outlet has a gauge


@dataclass(frozen=True, eq=False)
class RawFlow:
    """One flow of a file.

    Attributes
    ----------
    path : Path
    name : str
        Tells it from others of the file.
    mesh : RawMesh or Mesh
        A :class:`Mesh` is sound already, with kinds.
    velocity : ndarray, shape (f, k, 2)
    pressure : ndarray, shape (f, k)
    times : ndarray, shape (f,), optional
        Seconds, as they stand; absent where the file has none.
    node_type : ndarray, shape (k,), optional
        Of a raw mesh, in MeshGraphNets' numbers.
    known : dict of str to float
        What the file says in SI units.
    caption, split, regime : str
    notes : list of str
    """

    path: Path
    name: str
    mesh: RawMesh | Mesh
    velocity: Float[np.ndarray, "f k 2"]
    pressure: Float[np.ndarray, "f k"]
    times: Float[np.ndarray, " f"] | None = None
    node_type: Int[np.ndarray, " k"] | None = None
    known: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""
    split: str = ""
    regime: str = "unknown"
    notes: list[str] = field(default_factory=list)

    def wrong(self, found: str, expected: str, hint: str) -> FileError:
        """Return the error that says what is wrong with this flow."""
        where = f"trajectory {self.name}: {found}" if self.name else found
        return FileError(self.path, where, expected, hint)


def trajectory_of(
    raw: RawFlow, units: Units, *, every: float | None = None
) -> tuple[Trajectory, list[str]]:
    """Check a flow, bring it to SI units, and complete what can be told from it.

    Parameters
    ----------
    raw : RawFlow
    units : Units
    every : float, optional
        Seconds between frames to resample to, where times are not even.

    Returns
    -------
    Trajectory
    list of str
        What was done.

    Raises
    ------
    FileError
        If its units cannot be told, values are not finite, times are missing or not even, or the
        mesh is not sound.
    """
    notes = list(raw.notes)
    try:
        viscosity, density = units.fluid(raw.known)
    except ValueError as error:
        found, _, hint = str(error).partition("; expected them. ")
        raise raw.wrong(found, "them", hint) from error
    times = _times(raw, units)
    mesh, kept = _sound(raw, units, notes)
    velocity = np.asarray(raw.velocity, np.float64)[:, kept]
    pressure = np.asarray(raw.pressure, np.float64)[:, kept]
    _require_finite(raw, mesh, velocity, pressure)
    pressure = _without_gauge(pressure / density, mesh, notes)
    values = np.concatenate([velocity, pressure[..., None]], -1)
    times, values = _even(raw, times, values, every, notes)
    stacked = values.astype(np.float32)
    fields = {"u": stacked[..., 0], "v": stacked[..., 1], "p": stacked[..., 2]}
    known = _parameters(mesh, raw, velocity[0], viscosity)
    caption = raw.caption or (caption_of(known, raw.regime) if "reynolds" in known else "")
    return Trajectory(mesh, times, fields, known, caption), notes


def _times(raw: RawFlow, units: Units) -> Float[np.ndarray, " f"]:
    if raw.times is not None:
        return np.asarray(raw.times, np.float64)
    if units.time_step is None:
        raise raw.wrong(
            f"{len(raw.velocity)} frames have no times",
            "the time step between frames",
            "Give --time-step DT in seconds.",
        )
    return units.time_step * np.arange(len(raw.velocity))


def _sound(raw: RawFlow, units: Units, notes: list[str]) -> tuple[Mesh, Int[np.ndarray, " n"]]:
    """Mesh of a flow and the nodes of the file at its nodes."""
    if isinstance(raw.mesh, Mesh):
        return raw.mesh, np.arange(raw.mesh.n_nodes)
    cleaned = clean(raw.mesh, units.scale or 1.0)
    notes += cleaned.notes
    assert raw.node_type is not None
    official = np.asarray(raw.node_type).ravel()[cleaned.source]
    strange = sorted(set(official.tolist()) - set(OFFICIAL))
    if strange:
        raise raw.wrong(
            f"nodes are of the unknown kinds {strange}",
            "0, 4 (inlet), 5 (outlet) and 6 (wall)",
            "Leave out what is not fluid.",
        )
    kinds = np.array([OFFICIAL[kind] for kind in official.tolist()])
    inner = inner_nodes(cleaned.points, cleaned.triangles)
    kinds[inner & (kinds == NodeType.WALL)] = NodeType.OBSTACLE
    # A node that says wall, or inflow, inside the mesh would hold the flow there.
    edge = np.zeros(len(kinds), bool)
    edge[boundary_edges(cleaned.triangles)] = True
    if (kinds[edge] == NodeType.FLUID).any() or (kinds[~edge] != NodeType.FLUID).any():
        notes.append("some kinds of nodes do not fit the boundary of the mesh")
    return Mesh(cleaned.points, cleaned.triangles, kinds), cleaned.source


def _require_finite(raw: RawFlow, mesh: Mesh, velocity: np.ndarray, pressure: np.ndarray) -> None:
    bad = ~(np.isfinite(velocity).all(-1) & np.isfinite(pressure))
    if not bad.any():
        return
    nodes = bad.any(0)
    kinds = sorted({NodeType(kind).name.lower() for kind in mesh.node_type[nodes].tolist()})
    frames = np.flatnonzero(bad.any(1))
    where = f"{int(nodes.sum())} nodes" + (
        f" in frame {frames[0]}" if len(frames) == 1 else f" in {len(frames)} frames"
    )
    hint = (
        "A solver that masks its solid writes NaN there: set the velocity of walls and obstacle "
        "to 0."
        if nodes.sum() and (mesh.node_type[nodes] >= NodeType.WALL).all()
        else "Leave the frames out."
    )
    raise raw.wrong(
        f"values of {where} are not finite (NaN), on the boundary or in it: {', '.join(kinds)}",
        "finite fields",
        hint,
    )


def _without_gauge(pressure: np.ndarray, mesh: Mesh, notes: list[str]) -> np.ndarray:
    """Subtract a constant that would eat the digits of float32."""
    leaves = mesh.nodes_of(NodeType.OUTFLOW)
    gauge = float(pressure[:, leaves].mean()) if leaves.any() else float(pressure.mean())
    if abs(gauge) <= _GAUGE * float(np.ptp(pressure)):
        return pressure
    notes.append(f"the gauge {gauge:.6g} m²/s² of pressure is removed")
    return pressure - gauge


def _even(
    raw: RawFlow, times: np.ndarray, values: np.ndarray, every: float | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Frames at even times: as they are, or between them where asked."""
    steps = np.diff(times)
    if not len(steps):
        return times, values
    if (steps <= 0).any():
        raise raw.wrong(
            f"times do not increase: {times[:-1][steps <= 0][0]:g} s is followed by "
            f"{times[1:][steps <= 0][0]:g} s",
            "increasing times",
            "Leave repeated frames out.",
        )
    is_even = float(np.ptp(steps)) <= _EVEN * float(steps.mean())
    if is_even and (every is None or abs(every - steps.mean()) <= _EVEN * every):
        return times, values
    if every is None:
        raise raw.wrong(
            f"times are irregular: {uneven(times)}",
            "even steps",
            f"Have them resampled, such as with --resample {float(np.median(steps)):.4g}.",
        )
    wanted = times[0] + every * np.arange(int((times[-1] - times[0]) / every + 1e-6) + 1)
    right = np.clip(np.searchsorted(times, wanted), 1, len(times) - 1)
    share = ((wanted - times[right - 1]) / (times[right] - times[right - 1]))[:, None, None]
    notes.append(f"frames are resampled to every {every:g} s, linearly")
    return wanted, (1 - share) * values[right - 1] + share * values[right]


def uneven(times: Float[np.ndarray, " f"]) -> str:
    """Say which steps are unlike the others; empty where all are even."""
    steps = np.diff(times)
    if len(steps) < 2 or float(np.ptp(steps)) <= _EVEN * float(steps.mean()):
        return ""
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > _EVEN * usual)
    told = [f"{times[i]:.6g} to {times[i + 1]:.6g} s (step {steps[i]:.6g})" for i in odd[:3]]
    return f"steps of {usual:.6g} s but for {', '.join(told)}"


def _parameters(mesh: Mesh, raw: RawFlow, first: np.ndarray, viscosity: float) -> dict[str, float]:
    """Return what a trajectory is told to be, and what its geometry and inflow show."""
    known: dict[str, float] = {"viscosity": viscosity, "density": 1.0}
    low, high = mesh.points.min(0), mesh.points.max(0)
    known |= {"length": float(high[0] - low[0]), "height": float(high[1] - low[1])}
    given = {key: value for key, value in raw.known.items() if key not in known}
    solid = mesh.points[mesh.nodes_of(NodeType.OBSTACLE)]
    if len(solid):
        centre = solid.mean(0)
        away = np.linalg.norm(solid - centre, axis=1)
        known |= {"centre_x": float(centre[0]), "centre_y": float(centre[1])}
        known["radius"] = float(away.mean())
    if mesh.nodes_of(NodeType.INFLOW).any():
        known["u_mean"] = mean_inflow(mesh, first[:, 0])
    known |= given
    if {"u_mean", "radius"} <= known.keys():
        known["reynolds"] = known["u_mean"] * 2 * known["radius"] / viscosity
    return known
