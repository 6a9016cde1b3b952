"""Units of files: what a number means is told by the file or by its user, never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LENGTHS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres per unit of length."""

PRESSURES = ("Pa", "m2/s2")
"""Units of pressure: with the density, or divided by it already."""


@dataclass(frozen=True)
class Units:
    """What a user says of files; None leaves it to the file.

    Attributes
    ----------
    viscosity : float, optional
        Kinematic, m²/s.
    density : float, optional
        kg/m³: pressure is divided by it.
    length : str, optional
        One of :data:`LENGTHS`.
    pressure : str
        One of :data:`PRESSURES`; with ``m2/s2`` no density is needed.
    time_step : float, optional
        Seconds between frames of files without times, or between numbers in file names.

    Raises
    ------
    ValueError
        If a number is not positive, or a unit not known.
    """

    viscosity: float | None = None
    density: float | None = None
    length: str | None = None
    pressure: str = "Pa"
    time_step: float | None = None

    def __post_init__(self) -> None:
        for name in ("viscosity", "density", "time_step"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"the {name.replace('_', ' ')} must be positive, got {value:g}; expected a "
                    "number in SI units."
                )
        if self.length is not None and self.length not in LENGTHS:
            raise ValueError(f"unknown unit {self.length!r}; known: {', '.join(LENGTHS)}.")
        if self.pressure not in PRESSURES:
            raise ValueError(f"unknown unit {self.pressure!r}; known: {', '.join(PRESSURES)}.")

    @property
    def scale(self) -> float | None:
        """Metres per unit of length; None where not told."""
        return None if self.length is None else LENGTHS[self.length]

    def fluid(self, known: Mapping[str, float]) -> tuple[float, float]:
        """Return kinematic viscosity in m²/s and the divisor of pressure.

        Parameters
        ----------
        known : mapping
            What the file says: ``viscosity``, ``density``.

        Raises
        ------
        ValueError
            If neither says it, with the flags to give.
        """
        viscosity = self.viscosity if self.viscosity is not None else known.get("viscosity")
        density = self.density if self.density is not None else known.get("density")
        if self.pressure == "m2/s2":
            density = 1.0
        missing = [
            flag
            for flag, value in {
                "--viscosity NU (m²/s)": viscosity,
                "--density RHO": density,
            }.items()
            if value is None
        ]
        if missing:
            raise ValueError(
                "it does not say its viscosity, density and unit of pressure; expected them. Give "
                f"{' and '.join(missing)}"
                + (", or --pressure-unit m2/s2" if density is None else "")
                + "."
            )
        assert viscosity is not None
        assert density is not None
        return viscosity, density


def reynolds(u_mean: float, radius: float, viscosity: float) -> float:
    """Mean inflow times diameter over kinematic viscosity.

    Examples
    --------
    >>> reynolds(1.0, 0.05, 1e-3)
    100.0
    """
    return u_mean * 2 * radius / viscosity
