"""Units of length."""

from __future__ import annotations

UNITS = {
    "m": 1.0,
    "km": 1e3,
    "cm": 1e-2,
    "mm": 1e-3,
    "um": 1e-6,
    "nm": 1e-9,
    "angstrom": 1e-10,
    "pm": 1e-12,
    "bohr": 5.29177210544e-11,
}
"""Metres of each."""


def check_unit(unit: str) -> str:
    """Return a unit, or nothing, as it is.

    Raises
    ------
    ValueError
        When it is not known.
    """
    if unit and unit not in UNITS:
        raise ValueError(f"unknown unit {unit!r}; expected one of {', '.join(UNITS)}.")
    return unit


def factor(unit: str, wanted: str) -> float:
    """Return what lengths in one unit are multiplied by; 1 where either is not known.

    Examples
    --------
    >>> round(factor("nm", "angstrom"), 9), factor("", "m")
    (10.0, 1.0)
    """
    return UNITS[unit] / UNITS[wanted] if unit and wanted else 1.0
