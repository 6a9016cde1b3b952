"""What a checkpoint is to be used with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rectiflow_pde.raster import Raster
from rectiflow_pde.scaling import Scaling

_RANGES = {"frames": (1, 10_000), "steps": (1, 1000), "length": (1, 100_000), "restart": (1, 9_999)}


@dataclass(frozen=True)
class SimulationSettings:
    """What a checkpoint is to be used with; stored beside its weights.

    Parameters
    ----------
    scaling : Scaling
        How fields, positions and numbers are normalised.
    raster : Raster, optional
        Where flows are rastered; None for networks that integrate over the mesh.
    frames : int
        That the network makes at once: a stretch.
    frame_step : float
        Seconds between them.
    viscosity : float
        Kinematic, m²/s, of the training flows.
    steps : int
        Network calls, unless told otherwise.
    guidance : float
        Weight of guidance by the prompt, unless told otherwise; 1 is none.
    dimensions : float, optional
        Of the noise (:class:`~rectiflow.poisson.StudentT`) that the flow was trained from; normal
        if absent.
    guesses : bool
        The network says the latents at once and from no noise: the deterministic surrogate that a
        flow is compared with.
    length : int, optional
        Frames of a simulation, unless told otherwise; one stretch if absent. A longer simulation
        goes on stretch by stretch, each from a frame of the one before.
    restart : int, optional
        Which frame that is, 0 being the first; the last one if absent.
    """

    scaling: Scaling
    raster: Raster | None = None
    frames: int = 24
    frame_step: float = 0.05
    viscosity: float = 1e-3
    steps: int = 10
    guidance: float = 1.0
    dimensions: float | None = None
    guesses: bool = False
    length: int | None = None
    restart: int | None = None

    def __post_init__(self) -> None:
        told: Mapping[str, Any] = {"scaling": self.scaling, "raster": self.raster}
        for name, kind in (("scaling", Scaling), ("raster", Raster)):
            if isinstance(told[name], Mapping):  # read from JSON
                object.__setattr__(self, name, kind(**told[name]))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("length", "restart"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must lie in {low} to {high}, got {value!r}.")
        if self.restart is not None and self.restart >= self.frames:
            raise ValueError(
                f"restart must be a frame of a stretch, 1 to {self.frames - 1}, got {self.restart}."
            )
        for name in ("frame_step", "viscosity"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}.")
