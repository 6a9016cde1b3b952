r"""Incompressible flow past obstacles: Taylor-Hood elements, IMEX-BDF3.

.. math:: u_t + (u \cdot \nabla) u - \nu \Delta u + \nabla p = f, \qquad \nabla \cdot u = 0

with a given inflow, no slip on walls and obstacle, and ``nu du/dn - p n = 0`` at the outflow. Per
step of length ``h``, with ``N`` the convection,

.. math:: \tfrac{11}{6} \frac{u^{n+1}}{h} - \nu \Delta u^{n+1} + \nabla p^{n+1} =
    \frac{3 u^n - \tfrac32 u^{n-1} + \tfrac13 u^{n-2}}{h} - (3 N^n - 3 N^{n-1} + N^{n-2}) + f

and ``div u^{n+1} = 0`` against every linear function: one matrix, factorised once.

References
----------
Ascher, Ruuth, Wetton, "Implicit-explicit methods for time-dependent partial differential
equations" (SIAM J. Numer. Anal. 1995), Eq. (26). John, "Reference values for drag and lift of a
two-dimensional time-dependent flow around a cylinder" (2004), for the forces by the residual.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import splu

from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.solvers.taylor_hood import TaylorHood
from rectiflow_pde.units import require_viscosity

if TYPE_CHECKING:
    from jaxtyping import Float
    from scipy.sparse.linalg import SuperLU

log = logging.getLogger(__name__)

COURANT = 0.1
"""Step over (least edge on the obstacle / greatest speed of the inflow); 0.11 is the limit."""

_SPEEDS = 20.0  # a speed of so many times the inflow's has diverged
_LU = {
    "permc_spec": "MMD_AT_PLUS_A",  # half the fill of the default, and a fourth of the time
    "diag_pivot_thresh": 0.01,
    "options": {"SymmetricMode": True},
}
_ORDERS = {  # leading weight, weights of earlier velocities, weights of earlier convections
    1: (1.0, (1.0,), (1.0,)),
    3: (11 / 6, (3.0, -1.5, 1 / 3), (3.0, -3.0, 1.0)),
}

Force = Callable[[float], "Float[np.ndarray, '2 k'] | None"]
"""Body force at a time, at the places of the unknowns; None for nothing."""


class DivergedError(ValueError):
    """The solution grew without bound: the time step is too large."""


@dataclass(frozen=True, eq=False)
class FlowState:
    """One moment of a flow.

    Attributes
    ----------
    time : float
        Seconds.
    velocity : ndarray, shape (2, k)
        At all places of :class:`TaylorHood`; the first ``n`` are the vertices.
    pressure : ndarray, shape (n,)
        At the vertices.
    force : ndarray, shape (2,)
        On the obstacle, over density, per metre of depth: drag and lift in m³/s².
    """

    time: float
    velocity: Float[np.ndarray, "2 k"]
    pressure: Float[np.ndarray, " n"]
    force: Float[np.ndarray, " 2"]


@dataclass(frozen=True, eq=False)
class _System:
    """One matrix: its factors, what the given values add, and the rows of the obstacle."""

    factors: SuperLU
    shift: Float[np.ndarray, " k"]
    rows: sparse.spmatrix


class NavierStokes:
    """A flow on one mesh, with what stays the same from step to step.

    Parameters
    ----------
    mesh : Mesh
        With inflow and outflow.
    viscosity : float
        Kinematic, m²/s.
    inflow : callable
        ``inflow(y)``: the velocity along x in m/s at heights of the inflow.
    slips : bool, default False
        Walls let the flow slide, and hold only the velocity across.

    Raises
    ------
    ValueError
        If the viscosity is not positive, or the mesh has no inflow or outflow.
    """

    def __init__(
        self,
        mesh: Mesh,
        viscosity: float,
        inflow: Callable[[np.ndarray], np.ndarray],
        *,
        slips: bool = False,
    ) -> None:
        require_viscosity(viscosity)
        for kind in (NodeType.INFLOW, NodeType.OUTFLOW):
            if not (mesh.edge_type == kind).any():
                raise ValueError(
                    f"the mesh has no {kind.name.lower()}, got kinds "
                    f"{sorted(set(mesh.edge_type.tolist()))} on its boundary; expected edges of "
                    f"kind {int(kind)} ({kind.name.lower()}). Name its boundaries, or have them "
                    "inferred."
                )
        self.space = space = TaylorHood(mesh)
        self.viscosity = viscosity
        kinds, size = space.kinds, space.size
        is_wall = kinds == NodeType.WALL
        self.held = np.stack([space.held, space.held])
        self.given = np.zeros((2, size))
        enters = kinds == NodeType.INFLOW
        self.given[0, enters] = inflow(space.places[enters, 1])
        if slips:
            left = space.places[:, 0].min()
            corner = is_wall & (space.places[:, 0] <= left + 1e-12)
            self.held[0, is_wall & ~corner] = False
            self.given[0, corner] = inflow(space.places[corner, 1])
        self.speed = float(np.abs(self.given[0]).max())
        obstacle = np.flatnonzero(kinds == NodeType.OBSTACLE)
        self._obstacle = np.concatenate([obstacle, size + obstacle])
        self._free = np.concatenate([~self.held.ravel(), np.ones(mesh.n_nodes, bool)])
        self._systems: dict[tuple[float, float], _System] = {}

    def stable_step(self) -> float:
        """Longest time step in s that is taken without being asked for."""
        mesh = self.space.mesh
        edges = mesh.edges_of(NodeType.OBSTACLE)
        if not len(edges):
            edges = mesh.edges
        ends = mesh.points[edges]
        least = float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).min())
        return COURANT * least / self.speed

    def stokes(self) -> FlowState:
        """Steady flow without inertia under the same boundary values: where a flow starts from."""
        return self._solve(0.0, 0.0, np.zeros((2, self.space.size)))

    def start_from(self, u: Float[np.ndarray, "2 n"], time: float = 0.0) -> FlowState:
        """State next to velocities at the vertices: without divergence, with the given values."""
        wanted = self.space.refine(np.asarray(u, np.float64))
        load = np.stack([self.space.mass @ part for part in wanted])
        found = self._solve(1.0, time, load, viscosity=0.0)
        return FlowState(time, found.velocity, np.zeros_like(found.pressure), np.full(2, np.nan))

    def run(
        self,
        start: FlowState,
        times: Sequence[float],
        *,
        step: float | None = None,
        force: Force | None = None,
    ) -> Iterator[FlowState]:
        """Yield every state after ``start``; those at ``times`` are met exactly.

        Parameters
        ----------
        start : FlowState
        times : sequence of float
            Seconds, increasing, after the start's.
        step : float, optional
            Longest time step in s; :meth:`stable_step` by default. Shortened so that it divides
            every interval between times.
        force : callable, optional
            Body force, which acts explicitly.

        Raises
        ------
        DivergedError
            When the step is too large.
        """
        step = self.stable_step() if step is None else step
        velocities = [start.velocity]
        convections = [self._explicit(start.velocity, start.time, force)]
        now, last = start.time, 0.0
        for until in times:
            count = max(math.ceil((until - now) / step - 1e-9), 1)
            h = (until - now) / count
            if last and abs(h - last) > 1e-9 * h:  # another step: begin anew with one-step
                velocities, convections = velocities[:1], convections[:1]
            last = h
            begin = now
            for i in range(count):
                order = 3 if len(velocities) == 3 else 1
                lead, before, carried = _ORDERS[order]
                still = np.zeros_like(start.velocity)
                known = sum((c * u for c, u in zip(before, velocities, strict=False)), still) / h
                load = np.stack([self.space.mass @ part for part in known])
                load -= sum(c * n for c, n in zip(carried, convections, strict=False))
                now = until if i == count - 1 else begin + (i + 1) * h
                state = self._solve(lead / h, now, load)
                fastest = np.abs(state.velocity).max()
                if not fastest < _SPEEDS * self.speed:
                    raise DivergedError(
                        f"the flow grew without bound at t = {now:.4g} s with a time step of "
                        f"{h:.3g} s; expected a stable one, at most about "
                        f"{self.stable_step():.3g} s here."
                    )
                velocities = [state.velocity, *velocities[:2]]
                convections = [self._explicit(state.velocity, now, force), *convections[:2]]
                yield state

    def _explicit(self, velocity: np.ndarray, time: float, force: Force | None) -> np.ndarray:
        """Return what acts from the step before: convection without the body force."""
        made = self.space.convection(velocity)
        body = force(time) if force is not None else None
        if body is not None:
            made = made - np.stack([self.space.mass @ part for part in body])
        return made

    def _solve(
        self, inertia: float, time: float, load: np.ndarray, *, viscosity: float | None = None
    ) -> FlowState:
        """Solve ``(inertia M + nu K) u - B^T p = load``, ``B u = 0`` with the boundary values."""
        viscosity = self.viscosity if viscosity is None else viscosity
        key = (float(f"{inertia:.12e}"), viscosity)
        if key not in self._systems:
            while len(self._systems) > 2:
                self._systems.pop(next(iter(self._systems)))
            self._systems[key] = self._system(*key)
        system = self._systems[key]
        size, n = self.space.size, self.space.mesh.n_nodes
        right = np.concatenate([load.ravel(), np.zeros(n)])
        found = np.concatenate([self.given.ravel(), np.zeros(n)])
        found[self._free] = system.factors.solve(right[self._free] - system.shift)
        # What the boundary's own equations lack is the force of the obstacle on the flow.
        rows = self._obstacle
        lacking = (system.rows @ found - right[rows]).reshape(2, -1).sum(1)
        velocity = found[: 2 * size].reshape(2, size)
        return FlowState(time, velocity, -found[2 * size :], -lacking)

    def _system(self, inertia: float, viscosity: float) -> _System:
        space = self.space
        block = inertia * space.mass + viscosity * space.stiffness
        div = space.divergence
        whole = sparse.bmat([[sparse.block_diag([block, block]), div.T], [div, None]]).tocsr()
        given = np.concatenate([self.given.ravel(), np.zeros(space.mesh.n_nodes)])
        factors = splu(whole[self._free][:, self._free].tocsc(), **_LU)
        return _System(factors, (whole @ given)[self._free], whole[self._obstacle])
