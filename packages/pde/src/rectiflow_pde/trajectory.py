"""A flow over time on one mesh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.mesh import Mesh

FIELDS = ("u", "v", "p")
"""Velocity in m/s, and pressure divided by density in m²/s²."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Fields at the nodes of a mesh, frame by frame.

    Attributes
    ----------
    mesh : Mesh
    times : ndarray, shape (f,), float64
        Seconds, increasing.
    fields : dict of str to ndarray, shape (f, n), float32
        ``u`` and ``v`` in m/s, ``p`` over density in m²/s².
    parameters : dict of str to float
        What is known of the flow: ``reynolds``, ``radius`` (m), ``centre_x``, ``centre_y`` (m),
        ``u_mean`` (m/s, mean inflow), ``viscosity`` (m²/s, kinematic), ``strouhal``, ...
    caption : str
        The flow in words.

    Raises
    ------
    ValueError
        If a field is missing or of another shape, or times do not increase.
    """

    mesh: Mesh
    times: Float[np.ndarray, " f"]
    fields: Mapping[str, Float[np.ndarray, "f n"]]
    parameters: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", np.asarray(self.times, np.float64))
        expected = len(self.times), self.mesh.n_nodes
        missing = [name for name in FIELDS if name not in self.fields]
        if missing:
            raise ValueError(
                f"a trajectory needs the fields {', '.join(FIELDS)}, got {', '.join(self.fields)}; "
                f"expected {', '.join(missing)} as well."
            )
        for name, values in self.fields.items():
            if values.shape != expected:
                raise ValueError(
                    f"field {name} has shape {values.shape}; expected {expected}: frames, nodes."
                )
        if (np.diff(self.times) <= 0).any():
            raise ValueError(f"times must increase, got {self.times.tolist()}.")

    @property
    def frame_step(self) -> float:
        """Seconds from the first frame to the second; a single frame has none and is refused."""
        if len(self.times) < 2:
            raise ValueError(
                "a flow of one frame has no step in time; expected two frames or more."
            )
        return round(float(self.times[1] - self.times[0]), 6)

    def stride(self, step: float) -> int | None:
        """Return how many frames on the one ``step`` seconds later is; None if there is none."""
        found = round(step / self.frame_step)
        whole = abs(found * self.frame_step - step) < 1e-3 * self.frame_step
        return found if found >= 1 and whole else None

    @property
    def stacked(self) -> Float[np.ndarray, "f n 3"]:
        """The fields ``u, v, p`` in one array, float32."""
        return np.stack([self.fields[name] for name in FIELDS], -1).astype(np.float32)
