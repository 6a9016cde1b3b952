"""Numbers of a flow past a cylinder from the words that describe it.

A radius in the template's wording is in centimetres, any other in metres unless it says so.
What contradicts itself, is ambiguous or impossible is refused with the numbers it has; what is not
given is taken from a default and said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn

from rectiflow_pde.data.captions import published_reynolds
from rectiflow_pde.meshing import Channel
from rectiflow_pde.solvers.draws import CylinderRanges
from rectiflow_pde.units import reynolds_of

LONGEST = 2000
"""Characters beyond which an encoder of texts reads only a part."""

_NUMBER = r"([-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_IS = r"\s*(?:of|is|=|:|at)?\s*(?:about\s+)?"
_LENGTH = r"\s*(mm|cm|m|millimet(?:er|re)s?|centimet(?:er|re)s?|met(?:er|re)s?)?(?![\w/])"
_SPEED = r"\s*(mm/s|cm/s|m/s)?"
_REYNOLDS = rf"(?:reynolds(?:[\s-]*(?:number|zahl))?|\bre\b){_IS}"
_INFLOW = r"(?:inflow|inlet|velocity|speed)(?:\s+(?:velocity|speed))?"
_UNITS = {"mm": 1e-3, "cm": 1e-2, "m": 1.0, "mi": 1e-3, "ce": 1e-2, "me": 1.0}
_POSITION = r"(?:position|cent(?:re|er)d?)\W*(?:at\W*)?([-+]?\d*\.?\d+)\s*,\s*([-+]?\d*\.?\d+)"
_UNSUPPORTED = (
    *("square", "rectang", "triang", "ellip", "airfoil", "two cylinders", "sphere"),
    *("from the right", "from above", "from below", "three-dimensional", "3-d"),
)
_TEMPLATE = "fluid passes over a cylinder with a radius of"


@dataclass(frozen=True)
class Prompt:
    """What a text says; None where it says nothing.

    Attributes
    ----------
    radius : float, optional
        Metres.
    centre : tuple of float, optional
        Metres.
    u_mean : float, optional
        Mean inflow, m/s.
    reynolds : float, optional
    viscosity : float, optional
        m²/s.
    notes : tuple of str
        What was assumed or understood otherwise than it stands.
    """

    radius: float | None = None
    centre: tuple[float, float] | None = None
    u_mean: float | None = None
    reynolds: float | None = None
    viscosity: float | None = None
    notes: tuple[str, ...] = field(default=())

    def completed(self) -> dict[str, float]:
        """Return all numbers, those not given by default: the channel and the flow in it.

        Raises
        ------
        ValueError
            If the cylinder does not fit into the channel.
        """
        radius = 0.05 if self.radius is None else self.radius
        channel = Channel(radius, self.centre or (0.3, 0.2))
        reynolds = self.reynolds
        if reynolds is None and self.u_mean is None:
            reynolds = 100.0
        u_mean, viscosity = reynolds_of(
            radius, u_mean=self.u_mean, viscosity=self.viscosity, reynolds=reynolds
        )
        return {
            "radius": radius,
            "centre_x": channel.centre[0],
            "centre_y": channel.centre[1],
            "u_mean": u_mean,
            "viscosity": viscosity,
            "reynolds": u_mean * 2 * radius / viscosity,
        }


def parse_prompt(text: str) -> Prompt:
    """Read the numbers of a text.

    Raises
    ------
    ValueError
        If it is empty, ambiguous, contradictory or impossible.

    Examples
    --------
    >>> parse_prompt("flow past a cylinder of radius 50 mm at Reynolds number 120").radius
    0.05
    """
    plain = " ".join(text.split())
    if not plain:
        raise ValueError(
            "the prompt is empty; expected a text such as 'flow past a cylinder of radius 0.05 m "
            "at Reynolds number 100'."
        )
    lower = plain.lower()
    for word in _UNSUPPORTED:
        if word in lower:
            _refuse(f"the prompt asks for {word!r}", "one round cylinder, inflow from the left")
    letters = [c for c in plain if c.isalpha()]
    if letters and sum(c.isascii() for c in letters) < 0.5 * len(letters):
        _refuse("the prompt is in another language", "English, such as 'radius 0.05 m, Re 100'")
    notes: list[str] = []
    if len(plain) > LONGEST:
        notes.append(f"the prompt is long, {len(plain)} characters; its numbers were all read")
    found = Prompt(
        _radius(lower),
        _centre(lower),
        _speed(lower),
        _reynolds(lower),
        _viscosity(lower),
    )
    found = _as_published(found, notes)
    given = {k: getattr(found, k) for k in ("radius", "u_mean", "reynolds", "viscosity")}
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            said = {"reynolds": "Reynolds number", "u_mean": "inflow"}.get(name, name)
            raise ValueError(f"the {said} must be positive, got {value:g}.")
    if found.radius is not None and found.radius > 0.2:
        _refuse(
            f"a radius of {found.radius:g} m does not fit the channel of 1.6 x 0.41 m",
            f"a unit, such as {found.radius:g} cm",
        )
    told = found.completed()
    missing = [
        name
        for name, value in {
            "radius": found.radius,
            "position": found.centre,
            "Reynolds number": found.reynolds if found.u_mean is None else found.u_mean,
        }.items()
        if value is None
    ]
    if missing:
        taken = (
            f"radius {told['radius']:g} m, position {told['centre_x']:g}, {told['centre_y']:g}, "
            f"Reynolds number {told['reynolds']:g}"
        )
        notes.append(f"{', '.join(missing)} not given; default taken: {taken}")
    return replace(found, notes=tuple(notes))


def outside(told: Mapping[str, float], ranges: CylinderRanges) -> list[str]:
    """Say which numbers are outside ranges, such as those of training."""
    return [
        f"{name.replace('_', ' ')} {told[name]:.4g} is outside the trained range {low:g} to "
        f"{high:g}"
        for name in ("reynolds", "radius", "centre_x", "centre_y", "u_mean")
        for low, high in [getattr(ranges, name) or (0.0, math.inf)]
        if name in told and not low * (1 - 1e-9) <= told[name] <= high * (1 + 1e-9)
    ]


def _refuse(found: str, expected: str) -> NoReturn:
    raise ValueError(f"{found}; expected {expected}.")


def number_of(text: str) -> float:
    """Parse a number as people write it.

    Examples
    --------
    >>> number_of("1,200"), number_of("0,045"), number_of("5.5e-2")
    (1200.0, 0.045, 0.055)
    """
    plain = text.rstrip(",.")
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", plain):
        plain = plain.replace(",", "")
    return float(plain.replace(",", "."))


def _one(pattern: str, text: str, what: str) -> re.Match[str] | None:
    """Return the match of a pattern; several different numbers are refused."""
    found = list(re.finditer(pattern, text))
    values = {number_of(match[1]) for match in found}
    if len(values) > 1:
        told = " and ".join(f"{value:g}" for value in sorted(values))
        _refuse(f"the prompt has several numbers for the {what}: {told}", "one of them")
    if not found:
        return None
    rest = text[found[0].end(1) :]
    if further := re.match(rf"\s*(?:-|–|to|and|or)\s*{_NUMBER}", rest):
        _refuse(
            f"the prompt has a range for the {what}: {number_of(found[0][1]):g} and "
            f"{number_of(further[1]):g}",
            "one number",
        )
    return found[0]


def _radius(text: str) -> float | None:
    for word, factor in (("radius", 1.0), ("diameter", 0.5)):
        if match := _one(rf"{word}{_IS}{_NUMBER}{_LENGTH}", text, word):
            unit = match[2] or ("cm" if _TEMPLATE in text and word == "radius" else "m")
            return factor * number_of(match[1]) * _UNITS[unit[:2]]
    return None


def _centre(text: str) -> tuple[float, float] | None:
    match = re.search(_POSITION, text)
    return None if match is None else (float(match[1]), float(match[2]))


def _speed(text: str) -> float | None:
    match = _one(rf"{_INFLOW}{_IS}{_NUMBER}{_SPEED}", text, "inflow")
    unit = (match[2] or "m/s").partition("/")[0] if match else "m"
    return None if match is None else number_of(match[1]) * _UNITS[unit]


def _reynolds(text: str) -> float | None:
    if match := re.search(rf"{_REYNOLDS}(?:between|from)\s+{_NUMBER}\D+{_NUMBER}", text):
        _refuse(
            f"the prompt has a range for the Reynolds number: {match[1]} and {match[2]}",
            "one number",
        )
    match = _one(_REYNOLDS + _NUMBER, text, "Reynolds number")
    return None if match is None else number_of(match[1])


def _viscosity(text: str) -> float | None:
    match = _one(rf"viscosity{_IS}{_NUMBER}", text, "viscosity")
    return None if match is None else number_of(match[1])


def _as_published(found: Prompt, notes: list[str]) -> Prompt:
    """Take the Reynolds number of a published caption for the physical one that it stands for."""
    if None in (found.radius, found.u_mean, found.reynolds) or found.viscosity is not None:
        return found
    assert found.radius is not None
    assert found.u_mean is not None
    assert found.reynolds is not None
    implied = found.u_mean * 2 * found.radius / 1e-3
    if abs(published_reynolds(found.u_mean, found.radius) - found.reynolds) > 10:
        return found
    notes.append(
        f"Reynolds number {found.reynolds:g} is of the published captions, 9.49 times the "
        f"physical {implied:g}"
    )
    return replace(found, reynolds=implied)
