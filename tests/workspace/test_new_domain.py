"""A domain of another distribution: the text of docs/extend.md, installed and used as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```\n", re.S)
LONGEST = 250
METADATA = "Metadata-Version: 2.1\nName: rectiflow-toy\nVersion: 0.1\n"
MAX = "trainer.max_steps"
FAST = [
    *("trainer=cpu", "trainer.checkpoint_every=2", "trainer.validate_every=4"),
    "trainer.log_every=1",  # what is told is then of the last step, not a mean since the last start
]

# One process runs every command: importing torch takes longer than all of them.
SCRIPT = """
import contextlib, io, json, sys
from rectiflow_cli.main import main
told = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    told.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
json.dump(told, sys.stdout)
"""

COMMANDS: dict[str, list[str]] = {
    "help": ["--help"],
    "verbs": ["toy", "--help"],
    "prepare": ["toy", "prepare", "raw", "-o", "shards", "--splits", "0.8,0.2,0", "--json"],
    "train help": ["toy", "train", "--help"],
    "train": ["toy", "train", "data.dir=shards", *FAST, f"{MAX}=4", "hydra.run.dir=a", "--json"],
    "whole": ["toy", "train", "data.dir=shards", *FAST, f"{MAX}=8", "hydra.run.dir=b", "--json"],
    "resume": ["toy", "train", "resume=a", f"{MAX}=8", "--json"],
    "pairs": ["toy", "pairs", "--weights", "a", "--num", "24", "-o", "pairs", "--json"],
    "reflow": [
        *("toy", "reflow", "data.dir=pairs", "weights=a", *FAST, f"{MAX}=2"),
        *("hydra.run.dir=c", "--json"),
    ],
    "sample": ["toy", "sample", "--weights", "c", "--num", "4", "-o", "points", "--json"],
    "again": ["toy", "sample", "--weights", "c", "--num", "5", "-o", "points", "--json"],
    "rerun": ["rerun", "points/result.json", "--json"],
    "status": ["status", "points", "--json"],
    "eval": ["toy", "eval", "points/point_0000.npy", "points/point_0001.npy", "--json"],
    "eval model": ["toy", "eval", "--weights", "c", "-o", "measured", "--json"],
    "demo": ["demo", "--domain", "toy", "--weights", "c", "-o", "page", "--json"],
    "info": ["info", "--json"],
    "a flag": ["toy", "train", "--seed", "3"],
    "a key": ["toy", "train", "trainer.max_step=3"],
}


def text() -> dict[str, str]:
    return dict(FILES.findall((REPOSITORY / "docs" / "extend.md").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What every command said, and the folder they ran in."""
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    for name, content in text().items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content, encoding="utf-8")
    (site / "rectiflow_toy-0.1.dist-info" / "METADATA").write_text(METADATA, encoding="utf-8")
    (work / "raw").mkdir()
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    np.savetxt(work / "raw" / "ring.txt", np.stack([np.cos(angle), np.sin(angle)], 1))
    (work / "raw" / "bad.txt").write_text("no numbers\n")
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(COMMANDS.values())),
        cwd=work,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, json.loads(done.stdout), strict=True)), work


def test_its_whole_text_is_short():
    files = text()
    assert {"rectiflow_toy/pipeline.py", "rectiflow_toy/configs/train.yaml"} <= set(files)
    assert sum(content.count("\n") for content in files.values()) <= LONGEST


@pytest.mark.parametrize("name", [n for n in COMMANDS if not n.startswith("a ")])
def test_every_command_works(ran, name):
    said = ran[0][name]
    assert said["code"] == 0, said["err"]


def document(ran, name: str) -> dict:
    return json.loads(ran[0][name]["out"])


def test_it_is_found_and_shown(ran):
    said, _ = ran
    assert re.search(r"toy +points in the plane", said["help"]["out"])
    for verb in ("prepare", "train", "pairs", "reflow", "sample", "eval"):
        assert f"  {verb}" in said["verbs"]["out"]
    assert "rectiflow toy train resume=runs/toy-train/DATE" in said["train help"]["out"]
    assert document(ran, "info")["domains"]["toy"]["version"] == "0.1"


def test_points_are_prepared_and_bad_files_told(ran):
    told = document(ran, "prepare")
    assert (told["inputs"], told["accepted"], told["rejected"]) == (2, 60, 1)
    assert "could not convert" in (ran[1] / "shards" / "rejected.csv").read_text()


def test_a_resumed_training_is_that_of_one_that_went_on(ran):
    resumed, whole = document(ran, "resume"), document(ran, "whole")
    assert (document(ran, "train")["step"], resumed["step"], whole["step"]) == (4, 8, 8)
    for name in ("train/loss", "val/loss"):
        assert resumed["metrics"][name] == whole["metrics"][name]


def test_pairs_reflow_and_samples(ran):
    assert document(ran, "pairs")["pairs"] == 24
    assert document(ran, "reflow")["step"] == 2
    assert (document(ran, "sample")["made"], document(ran, "again")["made"]) == (4, 1)
    told = json.loads((ran[1] / "points" / "result.json").read_text())
    assert (told["settings"]["steps"], len(told["samples"])) == (8, 5)
    assert len(told["settings"]["weights_hash"]) == 64


def test_results_repeat_and_are_counted(ran):
    assert document(ran, "rerun")["equal"]
    told = document(ran, "status")
    assert (told["kind"], told["complete"], told["parts"][0]["done"]) == ("results", True, 5)


def test_points_are_measured(ran):
    assert len(document(ran, "eval")["samples"]) == 2
    model = document(ran, "eval model")
    assert len(model["samples"]) == 9
    assert (ran[1] / "measured" / "metrics.csv").is_file()


def test_it_has_a_card(ran):
    assert document(ran, "demo")["domains"]["toy"]["steps"] == 8
    assert "<ol>" in (ran[1] / "page" / "index.html").read_text()


def test_errors_say_what_to_write(ran):
    said, _ = ran
    assert "write seed=3." in said["a flag"]["err"]
    assert "Did you mean 'trainer.max_steps'?" in said["a key"]["err"]
    assert said["a flag"]["code"] == said["a key"]["code"] == 2
