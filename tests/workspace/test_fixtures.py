"""The root conftest: what is skipped and why, and where reference files are found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROBE = """\
import pytest

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.weights
def test_weights(): pass

@pytest.mark.gpu
def test_gpu(): pass

def test_shared(shared_data):
    assert (shared_data / "here").is_file()

def test_golden(golden):
    assert golden("extra.npz").read_text() == "mine"
    assert golden("core_solvers.npz").is_file()
    assert [path.name for path in golden.matching("extra", ".npz")] == ["extra.npz"]
    with pytest.raises(FileNotFoundError, match="golden file 'absent' is in none of"):
        golden("absent")

def test_seeds():
    import numpy, random, torch
    drawn = random.random(), numpy.random.rand(), torch.rand(1).item()
    random.seed(0), numpy.random.seed(0), torch.manual_seed(0)
    assert drawn == (random.random(), numpy.random.rand(), torch.rand(1).item())
"""


@pytest.fixture
def probe(repository, tmp_path):
    """Run the probe with some of the environment's promises kept."""
    (tmp_path / "test_probe.py").write_text(
        PROBE.replace("import pytest", "import numpy, pytest, torch", 1)
    )
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "extra.npz").write_text("mine")

    def run(*flags: str, **variables: str) -> str:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("RECTIFLOW_", "PYTEST_"))
        }
        command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider"]
        place = ["-c", str(repository / "pyproject.toml"), f"--rootdir={tmp_path}", str(tmp_path)]
        done = subprocess.run(
            [*command, "-rs", *place, *flags],
            env=environment
            | {"PYTHONPATH": str(repository), "RECTIFLOW_GOLDEN": str(tmp_path / "golden")}
            | {"CUDA_VISIBLE_DEVICES": "", "RECTIFLOW_SHARED": str(tmp_path / "shared")}
            | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    return run


def test_what_is_missing_is_skipped_with_the_reason(probe):
    said = probe()
    assert "2 passed, 4 skipped" in said, said
    for reason in (
        "slow: run with --slow",
        "set RECTIFLOW_WEIGHTS=DIR",
        "no CUDA device",
        "set RECTIFLOW_SHARED",
    ):
        assert reason in said


def test_what_is_there_runs(probe, tmp_path):
    (tmp_path / "shared" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "data" / "here").touch()
    said = probe("--slow", RECTIFLOW_WEIGHTS=str(tmp_path))
    assert "5 passed, 1 skipped" in said, said
