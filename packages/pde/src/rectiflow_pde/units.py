"""Units of files: what a number means is told by the file or by its user, never guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

VISCOSITY = 1e-3
"""m²/s, of the MeshGraphNets data."""

ROUNDED = 0.03
"""How far numbers of a caption, of two digits each, may be from each other."""

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


def require_viscosity(viscosity: float) -> None:
    """Refuse what no flow has."""
    if not (math.isfinite(viscosity) and viscosity > 0):
        raise ValueError(
            f"the viscosity must be positive, got {viscosity:g} m²/s; expected such as 1e-3. A "
            "flow of zero viscosity is not solved here."
        )


def reynolds_of(
    radius: float, *, u_mean: float | None, viscosity: float | None, reynolds: float | None
) -> tuple[float, float]:
    """Complete mean inflow and viscosity from two of three numbers.

    Returns
    -------
    tuple of float
        Mean inflow in m/s and viscosity in m²/s; 1e-3 where not told.

    Raises
    ------
    ValueError
        If the numbers contradict each other or are impossible.
    """
    if reynolds is not None and not (math.isfinite(reynolds) and reynolds > 0):
        raise ValueError(f"the Reynolds number must be positive, got {reynolds:g}.")
    diameter = 2 * radius
    if reynolds is None:
        return (1.0 if u_mean is None else u_mean), viscosity or VISCOSITY
    if u_mean is None:
        viscosity = VISCOSITY if viscosity is None else viscosity
        require_viscosity(viscosity)
        return reynolds * viscosity / diameter, viscosity
    implied = u_mean * diameter / (VISCOSITY if viscosity is None else viscosity)
    if abs(implied - reynolds) > ROUNDED * reynolds:
        known = f"a viscosity of {VISCOSITY if viscosity is None else viscosity:g} m²/s"
        raise ValueError(
            f"radius {radius:g} m, mean inflow {u_mean:g} m/s and {known} make a Reynolds number "
            f"of {implied:.4g}, got {reynolds:g}; leave one of them out, or give the viscosity "
            f"{u_mean * diameter / reynolds:.4g} m²/s."
        )
    return u_mean, viscosity or VISCOSITY
