"""What a checkpoint is to be used with."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rectiflow_trajectories.features import KINDS
from rectiflow_trajectories.units import check_unit


@dataclass(frozen=True)
class TrajectorySettings:
    """What a checkpoint is to be used with; stored beside its weights.

    Parameters
    ----------
    kind : str
        Of the systems, a key of :data:`~rectiflow_trajectories.features.KINDS`.
    dimensions : int
        Of space; 2 or 3.
    scale : float
        Length, in the unit, that is 1 to the network.
    unit : str
        Of lengths; not known if empty.
    noise : float
        Standard deviation of the noise around the reference, in ``scale``.
    steps : int
        Of the solver, unless told otherwise.
    diffusion : int
        Steps of the authors' diffusion that the network was trained in; 0 for a straight flow.
    rescale : bool
        The steps are told to the network as if there were 1000.

    Raises
    ------
    ValueError
        When a value is out of range.
    """

    kind: str = "particles"
    dimensions: int = 3
    scale: float = 1.0
    unit: str = ""
    noise: float = 1.0
    steps: int = 10
    diffusion: int = 0
    rescale: bool = False

    def __post_init__(self) -> None:
        check_unit(self.unit)
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if self.dimensions not in (2, 3):
            raise ValueError(f"dimensions must be 2 or 3, got {self.dimensions!r}.")
        for name in ("scale", "noise"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} must be positive, got {value!r}.")
        for name, low in (("steps", 1), ("diffusion", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= 10_000:
                raise ValueError(f"{name} must lie in {low} to 10000, got {value!r}.")
