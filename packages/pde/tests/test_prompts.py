"""Numbers in prompts: units, other wordings, what is refused and what is said."""

import pytest
from rectiflow_pde.prompts import check_channel, read_prompt

CAPTION = (
    "Fluid passes over a cylinder with a radius of 5.20 and position: 0.33, 0.20. Fluid enters "
    "with a velocity of 0.96. The Reynolds number is 100. The wake sheds vortices periodically."
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (CAPTION, {"radius": 0.052, "centre_x": 0.33, "centre_y": 0.2, "u_mean": 0.96}),
        ("flow past a cylinder of radius 0.05 at Reynolds number 120, inflow from the left",
         {"radius": 0.05, "reynolds": 120}),
        ("cylinder with a radius of 50 mm, mean inflow 100 cm/s", {"radius": 0.05, "u_mean": 1.0}),
        ("circular cylinder, diameter 0.1 m, Re = 80", {"radius": 0.05, "reynolds": 80}),
        ("cylinder radius 5.5e-2 m, Reynolds number 1.1E+02", {"radius": 0.055, "reynolds": 110}),
        ("Zylinder mit Radius 0,045 m, Reynolds-Zahl 90", {"radius": 0.045, "reynolds": 90}),
        ("cylinder of radius 0.05 m at Reynolds number 1,200", {"reynolds": 1200}),
        ("圆柱半径0.05米,雷诺数120", {"radius": 0.05, "reynolds": 120}),
    ],
)  # fmt: skip
def test_numbers_are_read(text, wanted):
    told = read_prompt(text).told
    assert {name: told[name] for name in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (" ", "empty"),
        ("word " * 3000, "too long"),
        ("a cylinder of radius 0.05 at Reynolds number -100", "positive, got -100"),
        ("flow past a square cylinder with a side of 0.1 m at Re 100", "square"),
        ("cylinder, inflow from the right", "right"),
        ("cylinder of radius 0.05 m, Reynolds number between 80 and 100", "80 and 100"),
        ("flow past a cylinder of radius 5 at Reynolds number 100", "cm"),
        ("cylinder of radius 0.05 m, inflow 1.0 m/s, Reynolds number 150", "100 .* says 150"),
    ],
)
def test_what_cannot_be_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        read_prompt(text)


@pytest.mark.parametrize("y", [0.04, 0.05, 0.37])
def test_a_cylinder_in_the_wall_is_refused(y):
    with pytest.raises(ValueError, match="wall"):
        check_channel({"radius": 0.05, "centre_x": 0.3, "centre_y": y})


def test_what_is_not_told_is_said():
    full, notes = read_prompt("slow laminar flow around a small cylinder").complete()
    assert full["reynolds"] == 100
    assert "assumed" in notes[0]
    full, notes = read_prompt(CAPTION).complete()
    assert not notes
    assert full["reynolds"] == pytest.approx(99.84)


def test_published_captions_are_recognised():
    text = CAPTION.replace("number is 100", "number is 950").replace("5.20", "5.00")
    read = read_prompt(text.replace("0.96", "1.00"))
    assert read.told["reynolds"] == pytest.approx(100)
    assert "9.49" in read.notes[0]
