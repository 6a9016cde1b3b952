"""The numbers in a prompt: radius, position, inflow, Reynolds number; what is odd is said."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

VISCOSITY = 1e-3
"""m²/s, unless the text gives another."""

DEFAULTS = {"radius": 0.05, "centre_x": 0.3, "centre_y": 0.2, "reynolds": 100.0}
"""Taken where a prompt does not tell."""

LONGEST = 10_000
"""Characters of a prompt."""

_NUMBER = r"(?P<number>[-+−]?\d[\d.,]*(?:[eE][-+]?\d+)?)\s*(?P<unit>mm|cm|km|m/s|cm/s|mm/s|m²/s|m\^2/s|m2/s|米|m\b)?"
_TO = r"(?:\s*(?:of|is|at|mit|von|about|=|:))*\s*"
_RADIUS = re.compile(rf"(?:radius|半径){_TO}{_NUMBER}", re.IGNORECASE)
_DIAMETER = re.compile(rf"(?:diameter|durchmesser|直径){_TO}{_NUMBER}", re.IGNORECASE)
_SPEED = re.compile(
    rf"(?:velocity|speed|inflow|geschwindigkeit)(?:\s+velocity|\s+speed)?{_TO}{_NUMBER}",
    re.IGNORECASE,
)
_REYNOLDS = re.compile(
    rf"(?:reynolds(?:[\s-]*(?:number|zahl))?|雷诺数|\bre\b){_TO}{_NUMBER}", re.IGNORECASE
)
_VISCOSITY = re.compile(rf"viscosity{_TO}{_NUMBER}", re.IGNORECASE)
_POSITION = re.compile(
    r"(?:position|cent(?:er|re)d?)(?:\s*(?:of|is|at|=|:))*\s*\(?\s*(-?\d*\.?\d+)\s*[,;]\s*(-?\d*\.?\d+)",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"between\s+(-?[\d.]+)\s+and\s+(-?[\d.]+)|(\d[\d.]*)\s*(?:-|–|to)\s*(\d[\d.]*)", re.IGNORECASE
)
_OTHER = re.compile(
    r"\b(square|rectang\w+|triang\w+|airfoil|aerofoil|ellip\w+|sphere|step|"
    r"(?:from|on)\s+the\s+right|von\s+rechts)\b",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"passes over a cylinder with a radius of", re.IGNORECASE)
_SCALES = {"mm": 1e-3, "cm": 1e-2, "km": 1e3, "mm/s": 1e-3, "cm/s": 1e-2}
_PUBLISHED = 2 / 100 / 1.0533e-6
"""Reynolds number over inflow and radius in the published captions; 9.49 times the physical."""


@dataclass(frozen=True)
class Prompt:
    """What a prompt tells, in SI units.

    Attributes
    ----------
    text : str
    told : dict
        Numbers that the text gives: ``radius``, ``centre_x``, ``centre_y``, ``u_mean``,
        ``reynolds``, ``viscosity``.
    notes : list of str
        How the text was understood where that is not plain.
    """

    text: str
    told: dict[str, float]
    notes: list[str] = field(default_factory=list)

    @property
    def viscosity(self) -> float:
        """Kinematic, m²/s."""
        return self.told.get("viscosity", VISCOSITY)

    def complete(self) -> tuple[dict[str, float], list[str]]:
        """Return all numbers of a flow, and a line on those that were filled in.

        The third of Reynolds number, inflow and radius follows from two.
        """
        full = dict(self.told)
        taken = {}
        for name in ("radius", "centre_x", "centre_y"):
            if name not in full:
                taken[name] = full[name] = DEFAULTS[name]
        if "reynolds" not in full and "u_mean" not in full:
            taken["reynolds"] = full["reynolds"] = DEFAULTS["reynolds"]
        if "u_mean" not in full:
            full["u_mean"] = full["reynolds"] * self.viscosity / (2 * full["radius"])
        full["reynolds"] = full["u_mean"] * 2 * full["radius"] / self.viscosity
        full["viscosity"] = self.viscosity
        listed = ", ".join(f"{name} {value:g}" for name, value in taken.items())
        return full, [f"not given in the prompt, so assumed: {listed}"] if taken else []


def read_prompt(text: str) -> Prompt:
    """Read the numbers of a prompt.

    Lengths are in metres unless a unit follows; a radius in the wording of the training captions
    is in centimetres.

    Raises
    ------
    ValueError
        If the text is empty, or asks for what cannot be or is not known here.

    Examples
    --------
    >>> read_prompt("flow past a cylinder of radius 5 cm at Re = 120").told
    {'radius': 0.05, 'reynolds': 120.0}
    """
    if not text.strip():
        raise ValueError(
            "the prompt is empty; expected a flow in words, such as 'flow past a cylinder of "
            "radius 0.05 at Reynolds number 120'."
        )
    if len(text) > LONGEST:
        raise ValueError(
            f"the prompt is too long, got {len(text)} characters; expected at most {LONGEST}."
        )
    if (other := _OTHER.search(text)) is not None:
        raise ValueError(
            f"the prompt asks for {other[0]!r}; expected a circular cylinder and inflow from the "
            "left, which is all that was trained."
        )
    plain = re.sub(r"(?<=\d)−|−(?=\d)", "-", text)
    told: dict[str, float] = {}
    notes: list[str] = []
    if (match := _DIAMETER.search(plain)) is not None:
        told["radius"] = _length(match, 1.0, notes) / 2
    if (match := _RADIUS.search(plain)) is not None:
        told["radius"] = _length(match, 0.01 if _TEMPLATE.search(plain) else 1.0, notes)
    if (match := _POSITION.search(plain)) is not None:
        told |= {"centre_x": float(match[1]), "centre_y": float(match[2])}
    for name, pattern in (("u_mean", _SPEED), ("viscosity", _VISCOSITY)):
        if (match := pattern.search(plain)) is not None:
            told[name] = _value(match["number"]) * _SCALES.get(match["unit"] or "", 1.0)
    if (match := _REYNOLDS.search(plain)) is not None:
        told["reynolds"] = _value(match["number"])
    _refuse_ranges(plain)
    _check(told)
    return Prompt(text, _agreed(told, notes), notes)


def _value(text: str) -> float:
    """Read a number; commas group thousands where three digits follow each, else are decimal."""
    text = text.rstrip(".,").replace("−", "-")
    if re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return float(text.replace(",", "."))


def _length(match: re.Match[str], plain: float, notes: list[str]) -> float:
    unit = match["unit"]
    return _value(match["number"]) * (_SCALES.get(unit, 1.0) if unit else plain)


def _refuse_ranges(text: str) -> None:
    found = re.search(
        r"(?:reynolds\s*(?:number)?|radius|velocity|inflow|\bre\b)\W+(?:" + _RANGE.pattern + r")",
        text,
        re.IGNORECASE,
    )
    if found is not None:
        ends = [group for group in found.groups() if group]
        raise ValueError(
            f"the prompt gives a range, {ends[0]} and {ends[1]}; expected one value. Ask for each "
            "flow by itself."
        )


def _check(told: dict[str, float]) -> None:
    words = {"reynolds": "Reynolds number", "u_mean": "inflow"}
    for name in ("reynolds", "radius", "u_mean", "viscosity"):
        value = told.get(name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(
                f"the {words.get(name, name)} must be positive, got {value:g}; expected a number "
                "greater than 0."
            )
    if told.get("radius", 0) >= 0.205:
        raise ValueError(
            f"a cylinder of radius {told['radius']:g} m does not fit the channel, which is 0.41 m "
            f"high; expected metres. Give the unit, such as 'radius {told['radius']:g} cm'."
        )


def _agreed(told: dict[str, float], notes: list[str]) -> dict[str, float]:
    """Settle what three numbers say of a flow that two determine."""
    if not {"reynolds", "u_mean", "radius"} <= set(told):
        return told
    viscosity = told.get("viscosity", VISCOSITY)
    physical = told["u_mean"] * 2 * told["radius"] / viscosity
    said = told["reynolds"]
    if abs(said - physical) <= 0.05 * physical + 1:
        return told
    published = _PUBLISHED * told["u_mean"] * told["radius"]
    if abs(said - published) <= 0.05 * published + 10:
        notes.append(
            f"the Reynolds number {said:g} is in the convention of the published captions, 9.49 "
            f"times the physical one; taken as {physical:.4g}"
        )
        return {**told, "reynolds": physical}
    raise ValueError(
        f"the prompt contradicts itself: its radius and inflow give a Reynolds number of "
        f"{physical:.4g} at a viscosity of {viscosity:g} m²/s, and it says {said:g}. Leave one of "
        "the three out, or give the viscosity."
    )


def check_channel(numbers: dict[str, float], length: float = 1.6, height: float = 0.41) -> None:
    """Refuse a cylinder that does not stand free in the channel.

    Raises
    ------
    ValueError
        Says how wide the gap to the nearest wall would be.
    """
    r, x, y = numbers["radius"], numbers["centre_x"], numbers["centre_y"]
    gap = min(y - r, height - y - r, x - r, length - x - r)
    if gap < 1e-6 * height:
        raise ValueError(
            f"a cylinder of radius {r:g} m at {x:g}, {y:g} leaves a gap of {gap:.3g} m to the "
            f"wall of the channel, {length:g} by {height:g} m; it would touch or cross it. "
            "Expected a gap above 0."
        )
