"""Numbers from words: read as people write them, or refused with the numbers they have."""

from __future__ import annotations

import pytest
from rectiflow_pde.data.captions import REGIMES, caption_of, published_reynolds
from rectiflow_pde.prompts import number_of, outside, parse_prompt
from rectiflow_pde.solvers.draws import CylinderRanges
from rectiflow_pde.units import reynolds_of

TEMPLATE = (
    "Fluid passes over a cylinder with a radius of {} and position: 0.31, 0.19. Fluid enters with "
    "a velocity of {}. The Reynolds number is {}."
)
READ = [
    (TEMPLATE.format("4.80", "0.95", 91), 0.048, 0.95, 91, (0.31, 0.19)),
    ("flow past a cylinder of radius 0.04 at Reynolds number 80", 0.04, None, 80, None),
    ("radius of 40 mm, mean inflow 90 cm/s", 0.04, 0.9, None, None),
    ("cylinder, diameter 0.08 m, Re = 1.5E+02", 0.04, None, 150, None),
    ("Zylinder mit Radius 0,04 m, Reynolds-Zahl 80", 0.04, None, 80, None),
    ("radius .04 m, inlet velocity: 1 m/s, centre at 0.4, 0.2", 0.04, 1.0, None, (0.4, 0.2)),
    ("radius 0.04, Reynolds number 1,200", 0.04, None, 1200, None),
    ("slow flow around a small cylinder", None, None, None, None),
]


@pytest.mark.parametrize(("text", "radius", "u_mean", "reynolds", "centre"), READ)
def test_numbers_are_read(text, radius, u_mean, reynolds, centre):
    found = parse_prompt(text)
    assert found.radius == (radius and pytest.approx(radius))
    assert (found.u_mean, found.reynolds, found.centre) == (u_mean, reynolds, centre)


def test_what_is_not_given_is_said_and_filled():
    found = parse_prompt("cylinder of radius 0.04 m")
    assert found.notes[0].startswith("position, Reynolds number not given; default taken")
    told = found.completed()
    assert told["u_mean"] == pytest.approx(100 * 1e-3 / 0.08)
    assert (told["centre_x"], told["centre_y"]) == (0.3, 0.2)


REFUSED = {
    "": "prompt is empty",
    "cylinder of radius 0.05 m at position 0.30, 0.04, Re 100": "gap of -0.01 m to the lower wall",
    "radius 0.05 at Reynolds number -100": "Reynolds number must be positive, got -100",
    "radius 0.05 m, inflow 1.0 m/s, Reynolds number 150": "of 100, got 150.*viscosity 0.0006667",
    "圆柱半径0.05米,雷诺数120": "another language",
    "a square cylinder with a side of 0.1 m at Re 100": "'square'",
    "cylinder at Re 100, inflow from the right": "'from the right'",
    "radius 0.05 m, Reynolds number between 80 and 100": "range.*80 and 100",
    "radius 0.05 m, Re 80-100": "range.*80 and 100",
    "radius 0.05 m, radius 0.04 m": "several numbers for the radius: 0.04 and 0.05",
    "cylinder of radius 5 at Reynolds number 100": "radius of 5 m does not fit.*5 cm",
}


@pytest.mark.parametrize("text", REFUSED)
def test_the_ambiguous_and_the_impossible_are_refused(text):
    with pytest.raises(ValueError, match=REFUSED[text]):
        parse_prompt(text)


def test_a_long_text_is_read_to_its_end():
    found = parse_prompt("The water was cold. " * 900 + "Radius 0.04 m, Re 75.")
    assert (found.radius, found.reynolds) == (0.04, 75)
    assert "long" in found.notes[0]


def test_published_captions_have_another_reynolds_number():
    assert published_reynolds(1.0, 0.05) == 950
    found = parse_prompt(TEMPLATE.format("5.00", "1.00", 950))
    assert found.reynolds == pytest.approx(100)
    assert "9.49 times the physical 100" in found.notes[0]


def test_numbers_outside_the_trained_range_are_told():
    told = parse_prompt("radius 0.05 m, Re 300").completed()
    assert outside(told, CylinderRanges())[0] == (
        "reynolds 300 is outside the trained range 25 to 190"
    )
    assert not outside(parse_prompt("radius 0.05 m, Re 100").completed(), CylinderRanges())


@pytest.mark.parametrize("regime", [*REGIMES, "unknown"])
def test_captions_are_read_back(regime):
    told = {"radius": 0.052, "centre_x": 0.33, "centre_y": 0.2, "u_mean": 0.96, "reynolds": 99.84}
    found = parse_prompt(caption_of(told, regime)).completed()
    assert found.keys() >= told.keys()
    assert all(found[key] == pytest.approx(value, rel=0.01) for key, value in told.items())


def test_two_of_three_numbers_give_the_third():
    assert reynolds_of(0.05, u_mean=None, viscosity=2e-3, reynolds=100) == (2.0, 2e-3)
    assert reynolds_of(0.05, u_mean=1.0, viscosity=None, reynolds=None) == (1.0, 1e-3)
    assert number_of("1.5e-2,") == 0.015
