"""What must never be committed; the rules are in ``tools/check_files.py``."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

HOST = ".".join(("packages", "nowhere", "org"))  # joined: this file is checked too


@pytest.fixture(scope="module")
def rules(repository):
    path = repository / "tools" / "check_files.py"
    spec = importlib.util.spec_from_file_location("check_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_repository_is_clean(repository):
    done = subprocess.run(
        [sys.executable, repository / "tools" / "check_files.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.md", "no newline", "no newline at the end"),
        ("a.md", f"see https://{HOST}/x\n", f"host '{HOST}'"),
        ("a.toml", f"index = '{HOST}/simple'\n", f"host '{HOST}'"),
        ("a.yaml", f"folder: /{'root'}/data\n", "a path of one machine"),
        ("a.py", f"# {'TO'}{'DO'}: finish\n", "left unfinished"),
        ("a.py", f"raise Not{'Implemented'}Error\n", "left unfinished"),
        ("a.py", f"torch.load(path, weights_only={'Fal'}{'se'})\n", "loads code"),
        ("a.py", f"np.load(path, allow_pickle={'Tr'}{'ue'})\n", "loads code"),
        ("a.py", "x = 1\n" * 601, "601 lines"),
        ("src/a.py", "x = 1\n" * 401, "its docstring must say"),
        ("a.txt", f"{'<' * 7} HEAD\n", "a merge conflict"),
    ],
)
def test_each_rule_finds_its_case(rules, tmp_path, name, text, problem):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    [finding] = rules.findings(path)
    assert problem in finding


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", "https://arxiv.org/abs/2209.03003 and www.example.org and export.arxiv.org\n"),
        ("a.py", "from rectiflow_protein.io import read_structure\n"),
        ("a.md", "the /workspace and ~/work/x, path/to/root/x\n"),
        ("a.md", f"{'TO'}{'DO'} lists are for prose\n"),
        ("a.py", ""),
    ],
)
def test_innocent_text_passes(rules, tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert list(rules.findings(path)) == []


def test_big_and_binary_files(rules, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(bytes(rules.MAX_BYTES))
    assert list(rules.findings(path)) == []
    path.write_bytes(bytes(rules.MAX_BYTES + 1))
    [finding] = rules.findings(path)
    assert "at most 16 MiB may be committed" in finding


def test_hydrated_lock_is_judged_by_what_git_stores(rules, tmp_path):
    lock = tmp_path / "uv.lock"
    lock.write_text('source = { registry = "https://' + HOST + '/simple" }\n')
    assert list(rules.findings(lock)) == []
