"""What a simulation is asked for: a mesh, the numbers of the flow, a first frame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.metrics.boundary import mean_inflow
from rectiflow_pde.prompts import Prompt, parse_prompt
from rectiflow_pde.solvers.cylinder import VISCOSITY
from rectiflow_pde.trajectory import FIELDS

if TYPE_CHECKING:
    from jaxtyping import Float

_DIFFERS = 0.05
"""Relative difference from which on a prompt and a mesh are said to disagree."""

_SLIP = 0.05
"""Share of the mean inflow that a first frame may have on a wall."""


@dataclass(frozen=True, eq=False)
class Request:
    """A flow as it is wanted.

    Attributes
    ----------
    mesh : Mesh
        Where the result is wanted, and where the first frame is given.
    numbers : dict
        ``reynolds``, ``radius``, ``centre_x``, ``centre_y``, ``u_mean``, ``viscosity`` in SI
        units, as far as they are known.
    first_frame : ndarray, shape (n, 3), optional
        u, v, p at the nodes.
    prompt : str
    notes : list of str
        How it was understood, and what is odd.
    """

    mesh: Mesh
    numbers: dict[str, float]
    first_frame: Float[np.ndarray, "n 3"] | None = None
    prompt: str = ""
    notes: list[str] = field(default_factory=list)


def make_request(
    prompt: str | None = None,
    *,
    mesh: Mesh | None = None,
    first_frame: Any = None,
    viscosity: float | None = None,
) -> Request:
    """Put together what a prompt, a mesh and a first frame tell.

    A mesh is made of the prompt's numbers if none is given. What a mesh and its first frame show,
    they show better than words: where both tell, theirs is taken, and a difference is said.

    Raises
    ------
    ValueError
        If there is neither prompt nor first frame, or the two parts do not fit together.
    """
    if prompt is None and first_frame is None:
        raise ValueError(
            "nothing says which flow is wanted; expected a prompt, a first frame, or both."
        )
    notes: list[str] = []
    told: dict[str, float] = {}
    if prompt is not None:
        read = parse_prompt(prompt)
        told = read.completed() if mesh is None else _said(read)
        notes += read.notes if mesh is None else ()
    if mesh is None:
        if first_frame is not None:
            raise ValueError("a first frame needs the mesh whose nodes its values belong to.")
        channel = Channel(told["radius"], (told["centre_x"], told["centre_y"]))
        return Request(mesh_channel(channel), told, None, prompt or "", notes)
    seen = obstacle_of(mesh)
    frame = None
    if first_frame is not None:
        frame = checked_frame(mesh, first_frame)
        seen["u_mean"] = mean_inflow(mesh, frame[:, 0].astype(np.float64))
        slip = np.abs(frame[mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE), :2])
        if slip.size and slip.max() > _SLIP * abs(seen["u_mean"]):
            notes.append(
                f"the first frame moves at up to {slip.max():.3g} m/s on wall and cylinder nodes, "
                "where no-slip asks for 0: it may belong to another mesh"
            )
    for name, value in seen.items():
        said = told.get(name)
        if said is not None and abs(said - value) > _DIFFERS * max(abs(value), 1e-9):
            notes.append(f"the prompt says {name} {said:.4g}, the mesh has {value:.4g}; taken")
    numbers = told | seen
    if viscosity is not None:
        numbers["viscosity"] = viscosity
    return Request(mesh, _completed(numbers, notes), frame, prompt or "", notes)


def _said(read: Prompt) -> dict[str, float]:
    """Return what a prompt tells itself, without defaults."""
    x, y = read.centre or (None, None)
    told = {
        **{name: getattr(read, name) for name in ("reynolds", "radius", "u_mean", "viscosity")},
        "centre_x": x,
        "centre_y": y,
    }
    return {name: value for name, value in told.items() if value is not None}


def _completed(numbers: dict[str, float], notes: list[str]) -> dict[str, float]:
    """Add what follows: inflow from the Reynolds number, or the other way round."""
    numbers = dict(numbers)
    radius = numbers.get("radius")
    if radius is None:
        return numbers
    if "viscosity" not in numbers:
        numbers["viscosity"] = VISCOSITY
        if "reynolds" in numbers and "u_mean" in numbers:  # then these say what it is
            numbers["viscosity"] = numbers["u_mean"] * 2 * radius / numbers["reynolds"]
        else:
            notes.append(f"viscosity not given, so taken as {VISCOSITY:g} m²/s")
    if "u_mean" not in numbers:
        if "reynolds" not in numbers:
            numbers["reynolds"] = 100.0
            notes.append("Reynolds number not given, so assumed: 100")
        numbers["u_mean"] = numbers["reynolds"] * numbers["viscosity"] / (2 * radius)
    numbers["reynolds"] = numbers["u_mean"] * 2 * radius / numbers["viscosity"]
    return numbers


def checked_frame(mesh: Mesh, first_frame: Any) -> Float[np.ndarray, "n 3"]:
    """Return a first frame as float32, if it belongs to a mesh.

    Raises
    ------
    ValueError
        If it has another number of nodes or fields, or is not finite.
    """
    frame = np.asarray(first_frame, np.float32)
    if frame.shape != (mesh.n_nodes, len(FIELDS)):
        raise ValueError(
            f"the first frame has the shape {frame.shape}, and the mesh {mesh.n_nodes} nodes; "
            f"expected {(mesh.n_nodes, len(FIELDS))}: u, v and p at each node of one frame."
        )
    bad = ~np.isfinite(frame).all(1)
    if bad.any():
        raise ValueError(
            f"the first frame is not finite (NaN) at {bad.sum()} of {len(frame)} nodes; expected "
            "numbers at all. Set the velocity on walls to 0."
        )
    return frame


def obstacle_of(mesh: Mesh) -> dict[str, float]:
    """Measure the circle that the obstacle's nodes lie on; nothing without one."""
    points = mesh.points[mesh.edges_of(NodeType.OBSTACLE)[:, 0]]
    if len(points) < 3:
        return {}
    # A circle through points by least squares: |x|² = 2 c·x + (r² - |c|²).
    middle = points.mean(0)
    off = points - middle
    found = np.linalg.lstsq(np.c_[2 * off, np.ones(len(off))], (off**2).sum(1), rcond=None)[0]
    radius = float(np.sqrt(found[2] + found[:2] @ found[:2]))
    x, y = (found[:2] + middle).tolist()
    return {"radius": radius, "centre_x": x, "centre_y": y}
