"""Several processes at one folder: one has it, the others are told so, nothing is mixed."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import InUseError, claim
from rectiflow.training import read_metrics

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "shared" / "tests"))
from tiny_run import tiny_run
from trials import FORK, start, started

SAMPLE = ("protein", "sample", "--length", "12", "--num", "4", "--steps", "2", "--json")


def _take(folder: Path, number: int, told: Any) -> None:
    try:
        with claim(folder, "results", ["owner.json", *(f"{i}.json" for i in range(20))]):
            for name in range(20):
                write_json(folder / f"{name}.json", {"owner": number})
            write_json(folder / "owner.json", {"owner": number})
            time.sleep(0.2)
        told.put((number, "wrote"))
    except InUseError:
        told.put((number, "refused"))


def test_one_of_many_has_the_folder(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for _ in range(20 if request.config.getoption("--slow") else 2):
        told: Any = FORK.Queue()
        processes = [started(_take, tmp_path, number, told) for number in range(6)]
        outcomes = dict(told.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        writers = [number for number, outcome in outcomes.items() if outcome == "wrote"]
        assert writers
        assert set(outcomes.values()) <= {"wrote", "refused"}
        owners = {json.loads(path.read_text())["owner"] for path in tmp_path.glob("*.json")}
        assert len(owners) == 1
        assert owners <= set(writers)


def test_identical_samples_at_once(tmp_path: Path) -> None:
    """One makes them all, the other is refused or finds them made; no file is lost."""
    runs = [start(*SAMPLE, "-o", tmp_path / "out") for _ in range(2)]
    codes = []
    for process, out, err in runs:
        process.join()
        codes.append(process.exitcode)
        if process.exitcode:
            assert "in use by another process" in err.read_text()
        else:
            assert len(json.loads(out.read_text())["samples"]) == 4
        out.unlink()
        err.unlink()
    assert set(codes) <= {0, 2}
    assert 0 in codes
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == [
        ".rectiflow",
        *(f"length_012_sample_{i:05d}.pdb" for i in range(4)),
        "result.json",
    ]


def test_shards_at_once(tmp_path: Path) -> None:
    runs = [start(*SAMPLE, "--shard", f"{i}/2", "-o", tmp_path / "out") for i in range(2)]
    for process, out, err in runs:
        process.join()
        assert process.exitcode == 0, err.read_text()
        out.unlink()
        err.unlink()
    assert len(list((tmp_path / "out").glob("*.pdb"))) == 4


def _train(folder: Path, told: Any) -> None:
    try:
        tiny_run(folder)
        told.put("trained")
    except FileExistsError as error:
        told.put(str(error))


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    told: Any = FORK.Queue()
    for _ in range(2):
        started(_train, tmp_path / "run", told)
    outcomes = sorted(told.get(timeout=120) for _ in range(2))
    assert "trained" in outcomes
    other = next(outcome for outcome in outcomes if outcome != "trained")
    assert "in use by another process" in other or "already holds a run" in other
    steps = [int(row["step"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert steps == sorted(set(steps))
