"""Flow past a cylinder in a channel: what is asked for, drawn at random or given, and solved."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rectiflow_pde.data.captions import caption_of
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.meshing import Channel, mesh_channel, require_edges
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.metrics.shedding import Shedding, shedding
from rectiflow_pde.solvers.navier_stokes import (
    DivergedError,
    FlowState,
    NavierStokes,
)
from rectiflow_pde.trajectory import Trajectory
from rectiflow_pde.units import VISCOSITY, require_viscosity

if TYPE_CHECKING:
    from jaxtyping import Float

log = logging.getLogger(__name__)

STROUHAL = 0.3
"""About that of a cylinder in a channel that it fills by a quarter."""

_LIMIT = 0.11  # step over (edge / speed) from which on it is unstable
_RETRY, _RETRIES = 1.35, 6


@dataclass(frozen=True)
class CylinderFlow:
    """A flow past a cylinder, as it is to be solved.

    Attributes
    ----------
    channel : Channel
    u_mean : float
        Mean inflow in m/s; the profile is a parabola with the peak ``3/2 u_mean``.
    viscosity : float
        Kinematic, m²/s.
    times : tuple of float
        Of the frames, in seconds after the start from Stokes flow.
    edge, far : float, optional
        Lengths of edges in metres, see :func:`mesh_channel`.
    step : float, optional
        Time step in s; a stable one by default.
    push : float
        Acceleration across behind the cylinder until ``8 radius / u_mean``, in units of
        ``u_mean² / diameter``: breaks the symmetry.

    Raises
    ------
    ValueError
        If a number is impossible, or the step would be unstable.
    """

    channel: Channel = field(default_factory=Channel)
    u_mean: float = 1.0
    viscosity: float = VISCOSITY
    times: tuple[float, ...] = tuple(float(1.5 + 0.05 * i) for i in range(31))
    edge: float | None = None
    far: float | None = None
    step: float | None = None
    push: float = 0.3

    def __post_init__(self) -> None:
        require_viscosity(self.viscosity)
        if not (math.isfinite(self.u_mean) and self.u_mean > 0):
            raise ValueError(
                f"the mean inflow must be positive, got {self.u_mean:g} m/s; the Reynolds number "
                "is mean inflow times diameter over viscosity."
            )
        if not self.times or self.times[0] < 0 or (np.diff(self.times) <= 0).any():
            raise ValueError(f"times must increase from 0 on, got {list(self.times)}.")
        if self.edge is not None:
            require_edges(self.channel, self.edge)
        if self.step is not None and self.channel.radius:
            edge = self.edge or 2 * math.pi * self.channel.radius / 28
            stable = _LIMIT * edge / self.u_max
            if not 0 < self.step <= stable:
                raise ValueError(
                    f"the time step {self.step:g} s is unstable: with edges of {edge:.3g} m and a "
                    f"peak inflow of {self.u_max:.3g} m/s the largest stable one is {stable:.3g} "
                    "s. Leave it out to have one chosen."
                )

    @property
    def u_max(self) -> float:
        """Peak of the inflow in m/s."""
        return 1.5 * self.u_mean

    @property
    def diameter(self) -> float:
        """In metres."""
        return 2 * self.channel.radius

    @property
    def reynolds(self) -> float:
        """Mean inflow times diameter over viscosity."""
        return self.u_mean * self.diameter / self.viscosity

    def inflow(self, y: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        """Velocity of the inflow at heights."""
        height = self.channel.height
        return 4 * self.u_max * y * (height - y) / height**2

    def mesh(self) -> Mesh:
        """Triangulate its channel."""
        return mesh_channel(self.channel, self.edge, self.far)

    def warnings(self) -> list[str]:
        """Tell what is possible but hardly meant."""
        steps = np.diff(self.times)
        if not len(steps) or not self.channel.radius or self.reynolds < 45:
            return []
        period = self.diameter / (STROUHAL * self.u_mean)
        if steps.max() <= period / 4:
            return []
        return [
            f"frames {steps.max():.3g} s apart are {steps.max() / period:.2f} of the shedding "
            f"period of about {period:.3g} s: its frequency will be aliased or cannot be told; "
            f"frames at most {period / 4:.2g} s apart show it."
        ]


@dataclass(frozen=True, eq=False)
class Solved:
    """A trajectory, and what is known of it only here.

    Attributes
    ----------
    trajectory : Trajectory
    shedding : Shedding
        Of the lift at every time step of the window.
    regime : str
    """

    trajectory: Trajectory
    shedding: Shedding
    regime: str


def solve_cylinder(flow: CylinderFlow) -> Solved:
    """Solve a flow from Stokes flow on, with a push that starts the shedding.

    A step that turns out unstable is made shorter, up to six times.
    """
    mesh = flow.mesh()
    solver = NavierStokes(mesh, flow.viscosity, flow.inflow)
    step = solver.stable_step() if flow.step is None else flow.step
    started = time.perf_counter()
    for attempt in range(_RETRIES):
        try:
            frames, history = _run(flow, solver, step)
            break
        except DivergedError:
            if attempt == _RETRIES - 1:
                raise
            step /= _RETRY
            log.info("repeating with a time step of %.3g s", step)
    log.info("%d nodes in %.1f s", mesh.n_nodes, time.perf_counter() - started)
    return _told(flow, mesh, frames, history)


def solve_flow(
    mesh: Mesh | Channel,
    parameters: Mapping[str, float],
    times: Sequence[float],
    *,
    initial: Float[np.ndarray, "2 n"] | None = None,
) -> Trajectory:
    """Solve a flow on a mesh of one's own, such as to check a generated one.

    Parameters
    ----------
    mesh : Mesh or Channel
        A channel is meshed with the usual edges.
    parameters : mapping
        ``u_mean`` in m/s and ``viscosity`` in m²/s; whatever else is kept.
    times : sequence of float
        Of the frames, in seconds; the first is the start's.
    initial : ndarray, shape (2, n), optional
        Velocities at the nodes to start from; made free of divergence. By default Stokes flow.

    Returns
    -------
    Trajectory
        With the pressure of a first frame taken after one thousandth of the first interval, since
        pressure is not part of a start.

    Raises
    ------
    ValueError
        If the mesh has no inflow or outflow, or the viscosity is not positive.
    """
    mesh = mesh_channel(mesh) if isinstance(mesh, Channel) else mesh
    bottom, height = float(mesh.points[:, 1].min()), float(np.ptp(mesh.points[:, 1]))
    peak = 1.5 * parameters["u_mean"]

    def inflow(y: np.ndarray) -> np.ndarray:
        return 4 * peak * (y - bottom) * (bottom + height - y) / height**2

    solver = NavierStokes(mesh, parameters["viscosity"], inflow)
    at = np.asarray(times, np.float64)
    start = solver.stokes() if initial is None else solver.start_from(initial)
    start = replace(start, time=float(at[0]))
    step = solver.stable_step()
    for attempt in range(_RETRIES):
        try:
            frames = [start]
            frames += _at(solver.run(start, at[1:].tolist(), step=step), at[1:])
            break
        except DivergedError:
            if attempt == _RETRIES - 1:
                raise
            step /= _RETRY
    if initial is not None and len(at) > 1:
        after = next(solver.run(start, [at[0] + 1e-3 * (at[1] - at[0])]))
        frames[0] = replace(start, pressure=after.pressure)
    return Trajectory(mesh, at, _fields(frames, mesh.n_nodes), dict(parameters))


def _at(states: Iterable[FlowState], times: Float[np.ndarray, " f"]) -> list[FlowState]:
    """States at times, of all."""
    wanted = set(times.tolist())
    return [state for state in states if state.time in wanted]


def _run(
    flow: CylinderFlow, solver: NavierStokes, step: float
) -> tuple[list[FlowState], Float[np.ndarray, "s 4"]]:
    """States at the frames; and time, drag, lift and velocity across behind, at every step."""
    (cx, cy), r = flow.channel.centre, flow.channel.radius
    places = solver.space.places
    away = (places[:, 0] - cx - 2 * r) ** 2 + (places[:, 1] - cy) ** 2
    push = flow.push * flow.u_mean**2 / flow.diameter * np.exp(-away / r**2)
    body = np.stack([np.zeros_like(push), push])
    until = 8 * r / flow.u_mean
    probe = interpolation(solver.space.mesh, np.array([[cx + r + 1.5 * flow.diameter, cy]]))
    start = solver.stokes()
    frames = [start] if flow.times[0] == 0 else []
    history = []
    wanted = [t for t in flow.times if t > 0]
    for state in solver.run(start, wanted, step=step, force=lambda t: body if t < until else None):
        across = float(probe(state.velocity[1, : solver.space.mesh.n_nodes])[0])
        history.append((state.time, *state.force, across))
        if state.time == flow.times[len(frames)]:
            frames.append(state)
    return frames, np.array(history)


def _fields(frames: Sequence[FlowState], n: int) -> dict[str, Float[np.ndarray, "f n"]]:
    u = np.stack([state.velocity[:, :n] for state in frames]).astype(np.float32)
    p = np.stack([state.pressure for state in frames]).astype(np.float32)
    return {"u": u[:, 0], "v": u[:, 1], "p": p}


def _told(
    flow: CylinderFlow, mesh: Mesh, frames: Sequence[FlowState], history: np.ndarray
) -> Solved:
    """Measure the wake over the window of the frames, and describe the flow."""
    window = history[history[:, 0] >= flow.times[0]]
    scale = flow.u_mean
    even = np.linspace(window[0, 0], window[-1, 0], 400)
    lift, across = (np.interp(even, window[:, 0], window[:, i]) for i in (2, 3))
    coefficient = 2 / (flow.u_mean**2 * flow.diameter)
    by_lift = shedding(even, lift * coefficient, reynolds=flow.reynolds)
    regime = shedding(even, across, scale=scale, reynolds=flow.reynolds).regime
    parameters = {
        "reynolds": flow.reynolds,
        "radius": flow.channel.radius,
        "centre_x": flow.channel.centre[0],
        "centre_y": flow.channel.centre[1],
        "u_mean": flow.u_mean,
        "viscosity": flow.viscosity,
        "density": 1.0,
        "length": flow.channel.length,
        "height": flow.channel.height,
        "cd_mean": float(coefficient * window[:, 1].mean()),
        "cl_amplitude": float(np.ptp(coefficient * window[:, 2]) / 2),
    }
    if by_lift.frequency is not None and regime != "steady":
        parameters["frequency"] = by_lift.frequency
        parameters["strouhal"] = by_lift.frequency * flow.diameter / flow.u_mean
    caption = caption_of(parameters, regime)
    times = np.array(flow.times)
    fields = _fields(frames, mesh.n_nodes)
    return Solved(Trajectory(mesh, times, fields, parameters, caption), by_lift, regime)
