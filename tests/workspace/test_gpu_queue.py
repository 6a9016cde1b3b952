"""The GPU queue: its table, its script, and one entry run as on a bare machine, on the CPU."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
QUEUE = REPOSITORY / "benchmarks" / "gpu"
GOLDEN = REPOSITORY / "tests" / "golden"
ABSENT = ["biotite", "hydra", "trimesh", "librosa", "matplotlib", "jaxtyping", "omegaconf"]
# Put before an entry by Python's start-up hook, so that run.sh is run as it is. Libraries probe
# for optional friends; only our own imports must do without.
BLOCKER = f"""
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {ABSENT!r}:
            return None
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame.f_globals["__name__"].partition(".")[0] in (
            "rectiflow", "rectiflow_protein", "rectiflow_audio", "rectiflow_shape", "rectiflow_pde"
        ):
            raise ModuleNotFoundError(name + " is not on a bare machine", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def bare(tmp_path):
    """Environment of a machine that lacks the optional packages."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(hook), "OMP_NUM_THREADS": "1"}


def queue(*words: str | Path, env: dict | None = None) -> subprocess.CompletedProcess:
    command = ["bash", QUEUE / "run.sh", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def entries_of_script() -> list[str]:
    return re.search(r"^known=\(([^)]*)\)$", (QUEUE / "run.sh").read_text(), re.MULTILINE)[
        1
    ].split()


def test_table_script_and_files_have_the_same_entries():
    rows = re.findall(r"^\| `([\w-]+)` \|", (QUEUE / "README.md").read_text(), re.MULTILINE)
    assert rows == entries_of_script()
    for entry in rows:
        assert (QUEUE / f"{entry.replace('-', '_')}.py").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gpu-party", "--out", "x"], "unknown entry 'gpu-party'"),
        (["parity"], "no --out given"),
        (["--out", "x"], "no entry given"),
        (["parity", "--out"], "--out needs a value"),
        (["parity", "--fast", "--out", "x"], "unknown option --fast"),
    ],
)
def test_wrong_words_are_refused(words, message):
    done = queue(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "entries: " + " ".join(entries_of_script()) in done.stderr


def golden_subset(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(GOLDEN / name)
    return folder


def test_parity_runs_on_a_bare_machine(bare, tmp_path):
    names = ["reqflow_small.json", "reqflow_small.safetensors", "core_solvers.npz"]
    golden = golden_subset(tmp_path / "golden", *names)
    out = tmp_path / "out"
    done = queue("parity", "--out", out, "--golden", golden, "--device", "cpu", env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "parity.json").read_text())
    assert found["passed"] is True
    assert {row["case"] for row in found["networks"]} == {"len24", "len60", "len24_nosc"}
    assert len(found["solvers"]) > 10
    assert found["machine"]["libraries"]["rectiflow"] == "0.1.0"
    assert all(0 < row["tf32_bf16_edges"]["trans"] < 2.0 for row in found["networks"])


@pytest.mark.slow
def test_audio_parity_runs_on_a_bare_machine(bare, tmp_path):
    names = ["flowsep_unet_recipe", "flowsep_vae_recipe", "flowsep_vocoder_recipe"]
    files = [f"{name}.{kind}" for name in names for kind in ("json", "safetensors")]
    golden = golden_subset(tmp_path / "golden", *files)
    out = tmp_path / "out"
    done = queue("audio-parity", "--out", out, "--golden", golden, "--device", "cpu", env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "audio-parity.json").read_text())
    assert [row["case"] for row in found["cases"]] == names
    assert all(1e-5 < row["bf16"] < 0.2 for row in found["cases"])


def test_shape_entries_run_on_a_bare_machine(bare, tmp_path):
    names = ["triposg_vae_recipe", "triposg_dit_recipe", "triposg_dit_cross2_recipe"]
    files = [f"{name}.{kind}" for name in names for kind in ("json", "safetensors")]
    golden = golden_subset(tmp_path / "golden", *files)
    out = tmp_path / "out"
    words = ("shape-parity", "shape-generation", "--out", out, "--golden", golden)
    done = queue(*words, "--device", "cpu", env=bare)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((out / "shape-parity.json").read_text())
    assert found["passed"] is True
    assert {row["case"] for row in found["cases"]} == set(names)
    rows = json.loads((out / "shape-generation.json").read_text())["rows"]
    assert [row["steps"] for row in rows] == [50, 10]
    assert all(row["queries"] < row["dense_queries"] for row in rows)


def test_a_failed_entry_is_told_and_does_not_stop_the_next(tmp_path):
    env = {**os.environ, "PYTHON": "false"}  # every entry fails at once
    done = queue("parity", "protein-small", "--out", tmp_path / "out", env=env)
    assert done.returncode == 1
    assert "failed: parity protein-small" in done.stderr


@pytest.mark.parametrize("path", sorted(QUEUE.glob("*.py")), ids=lambda path: path.stem)
def test_entries_import_what_a_bare_machine_has(path):
    domains = {"rectiflow_protein", "rectiflow_audio", "rectiflow_shape", "rectiflow_pde"}
    there = {"torch", "numpy", "safetensors", "rectiflow", *domains}
    own = {path.stem for path in QUEUE.glob("*.py")}
    tree = ast.parse(path.read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found = {name.partition(".")[0] for name in names}
    assert found <= there | own | set(sys.stdlib_module_names)
