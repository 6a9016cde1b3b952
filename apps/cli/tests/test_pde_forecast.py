"""``rectiflow pde forecast``: trained on made-up plumes, on tables good and bad."""

from __future__ import annotations

import json

import pytest
from rectiflow_cli import main
from rectiflow_pde.data.air import write_plumes


def rectiflow(*words):
    return main.main(["pde", *map(str, words)])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_plumes(tmp_path_factory.mktemp("air") / "tables", stations=5, hours=120)


@pytest.fixture(scope="module")
def run(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "air"
    words = ("experiment=small_air", "debug=tiny_air", f"data.dir={tables}")
    assert rectiflow("train", *words, f"run_dir={folder}", f"hydra.run.dir={folder}") == 0
    return folder


def test_a_forecast_from_tables(run, tables, tmp_path, capsys):
    out = tmp_path / "out"
    told = (tables, "--weights", run, "-o", out)
    assert rectiflow("forecast", *told, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["made"] == 1
    assert "% of the values are gaps" in captured.err
    assert len((out / "forecast.csv").read_text().splitlines()) == 1 + 4 * 5
    assert (out / "forecast.png").is_file()
    assert rectiflow("forecast", *told, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 1
    assert main.main(["rerun", str(out / "result.json")]) == 0


def test_bad_tables_are_told_in_a_line(run, tables, tmp_path, capsys):
    told = ("--weights", run, "-o", tmp_path / "out")
    assert rectiflow("forecast", tables, *told[2:]) == 2
    assert "experiment=small_air" in capsys.readouterr().err
    assert rectiflow("forecast", tmp_path, *told) == 2
    assert "stations.csv" in capsys.readouterr().err
    for name in ("stations.csv", "readings.csv"):
        (tmp_path / name).write_text((tables / name).read_text().replace("S03,", "S99,", 1))
    assert rectiflow("forecast", tmp_path, *told) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "is of station 'S03'; expected one of the 5 stations" in line or "'S99'" in line
