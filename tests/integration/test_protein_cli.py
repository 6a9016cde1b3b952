"""The protein commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import biotite.structure.io as structure_io
import pytest
import torch
from rectiflow.training import read_metrics
from rectiflow_cli.main import main

COMMAND = Path(sys.executable).with_name("rectiflow")
STEPS = 14
TRAINING = (
    *("debug=tiny", f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=2"),
    *("trainer.validate_every=7", "validation.lengths=[12]", "validation.pictures=false"),
)
ENOUGH = 3  # logged steps before the run is killed
PATIENCE_S = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command in an empty folder, with as many threads as this process has."""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(
        [str(COMMAND), *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def logged(run: Path) -> list[dict[str, str]]:
    """Rows of the metrics, but for how fast it went."""
    path = run / "metrics.csv"
    rows = read_metrics(path) if path.exists() else []
    return [{k: v for k, v in row.items() if k != "train/samples_per_s"} for row in rows]


@pytest.fixture(scope="module")
def killed(folder):
    """A run that was killed in the middle and then continued; its folder."""
    run = folder / "killed"
    process = start(folder, "protein", "train", *TRAINING, f"hydra.run.dir={run}")
    deadline = time.monotonic() + PATIENCE_S
    while len(logged(run)) < ENOUGH or not (run / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the run did not get going"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(logged(run)) < STEPS, "the run was over before it was killed"
    assert not (run / "export").exists()
    assert main(["protein", "train", f"resume={run}"]) == 0
    return run


def test_a_killed_run_ends_with_the_numbers_of_one_that_was_not(killed, folder):
    whole = folder / "whole"
    assert main(["protein", "train", *TRAINING, f"hydra.run.dir={whole}"]) == 0
    assert logged(killed) == logged(whole)
    assert logged(whole)[-1]["step"] == str(STEPS)


def test_its_weights_make_structures_that_others_read(killed, folder):
    words = ["protein", "sample", "--length", "14", "--num", "2", "--steps", "3", "--json"]
    process = start(folder, *words, "--weights", str(killed / "export"), "-o", "samples")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert err == ""
    for row in json.loads(out)["samples"]:
        atoms = structure_io.load_structure(folder / "samples" / row["files"][0])
        assert (len(atoms), set(atoms.res_name)) == (5 * 14, {"ALA"})


def test_an_error_is_one_line(folder):
    process = start(folder, "protein", "train", "data.dir=nowhere")
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "rectiflow protein prepare FOLDER -o SHARDS" in err
