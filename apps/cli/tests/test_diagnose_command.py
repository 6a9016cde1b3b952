"""``rectiflow diagnose``: shipped flows, and domains whose flow has no plain field."""

from __future__ import annotations

import json

from rectiflow_cli import main


def test_the_shipped_shapes(capsys):
    words = ["shape", "--num", "1", "--steps", "1", "--times", "0.5", "--probes", "1", "--json"]
    assert main.main(["diagnose", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    [row] = told["times"]
    assert 0 < row["asymmetry"] < 4
    assert told["dimensions"] == 22208


def test_what_cannot_be_diagnosed_is_told(capsys):
    assert main.main(["diagnose", "protein", "--lengths", "16"]) == 2
    assert "no field of one tensor" in capsys.readouterr().err
    assert main.main(["diagnose", "shapes"]) == 2
    assert "Did you mean 'shape'?" in capsys.readouterr().err
    assert main.main(["diagnose"]) == 2
    assert "rectiflow diagnose --help" in capsys.readouterr().err
