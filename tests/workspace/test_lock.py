"""The committed ``uv.lock`` pins exactly, names no index, and matches the project files."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib

import pytest

HYDRATED = """\
version = 1

[manifest]
members = [
    "toy",
    "toy-cli",
]
constraints = [{ name = "numpy", specifier = "<3" }]

[[package]]
name = "numpy"
version = "2.0.0"
source = { registry = "https://mirror.example.com/simple" }
sdist = { url = "https://files.example.com/aa/bb/numpy-2.0.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "https://example.com/cc/numpy-2.0.0%2Bcpu-py3-none-any.whl#x", hash = "sha256:11" },
]

[[package]]
name = "toy"
version = "0.1.0"
source = { editable = "toy" }
dependencies = [{ name = "numpy", source = { registry = "https://mirror.example.com/simple" } }]

[[package]]
name = "direct"
version = "1.0"
source = { url = "https://example.com/direct-1.0.zip" }
"""


@pytest.fixture(scope="module")
def tool(repository):
    return repository / "tools" / "neutral_lock.py"


def clean(tool, text: str) -> str:
    done = subprocess.run(
        [sys.executable, tool, "--clean"], input=text.encode(), capture_output=True, check=True
    )
    return done.stdout.decode()


@pytest.fixture(scope="module")
def committed(repository, tool) -> str:
    """What git stores: the index's text, or the working file through the filter."""
    show = subprocess.run(
        ["git", "show", ":./uv.lock"], cwd=repository, capture_output=True, check=False
    )
    if show.returncode == 0:
        return show.stdout.decode()
    return clean(tool, (repository / "uv.lock").read_text())


def test_only_index_addresses_and_members_go(tool):
    text = clean(tool, HYDRATED)
    data = tomllib.loads(text)
    assert data["manifest"] == {"constraints": [{"name": "numpy", "specifier": "<3"}]}
    numpy, toy, direct = data["package"]
    assert numpy["source"] == {"registry": "https://index.invalid/simple"}
    assert numpy["sdist"] == {"filename": "numpy-2.0.0.tar.gz", "hash": "sha256:00", "size": 1}
    assert numpy["wheels"] == [
        {"filename": "numpy-2.0.0+cpu-py3-none-any.whl", "hash": "sha256:11"}
    ]
    assert toy["dependencies"][0]["source"] == numpy["source"]
    assert direct["source"] == {"url": "https://example.com/direct-1.0.zip"}


def test_cleaning_twice_changes_nothing(tool):
    assert clean(tool, clean(tool, HYDRATED)) == clean(tool, HYDRATED)


def test_write_rewrites_the_working_file_alone(tool, tmp_path):
    lock = tmp_path / "uv.lock"
    lock.write_text(HYDRATED)
    for _ in range(2):
        subprocess.run([sys.executable, tool, "--write", "--lock", lock], check=True)
        assert lock.read_text() == clean(tool, HYDRATED)
    assert list(tmp_path.iterdir()) == [lock]


def check(tool, lock) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, tool, "--check", "--lock", lock], capture_output=True, text=True
    )


def test_check_compares_with_git(tool, tmp_path):
    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)

    lock = tmp_path / "uv.lock"
    git("init")
    lock.write_text(clean(tool, HYDRATED))
    git("add", "uv.lock")
    lock.write_text(HYDRATED)  # as uv leaves it
    assert check(tool, lock).returncode == 0

    lock.write_text(HYDRATED.replace("sha256:11", "sha256:22"))
    changed = check(tool, lock)
    assert changed.returncode == 1
    assert "differs from the one in git" in changed.stderr

    git("add", "uv.lock")  # without the filter: addresses reach git
    leaked = check(tool, lock)
    assert leaked.returncode == 1
    assert "git holds a uv.lock with addresses" in leaked.stderr


def test_check_without_git_wants_the_neutral_form(tool, tmp_path):
    lock = tmp_path / "uv.lock"
    lock.write_text(HYDRATED)
    assert "uv.lock is not neutral; run --write" in check(tool, lock).stderr
    lock.write_text(clean(tool, HYDRATED))
    assert check(tool, lock).returncode == 0


def test_committed_lock_names_no_host(committed):
    hosts = set(re.findall(r"[a-z]+://([^/\"]+)", committed))
    assert hosts == {"index.invalid"}


def test_every_locked_file_has_a_hash(committed):
    for package in tomllib.loads(committed)["package"]:
        if "registry" not in package["source"]:
            continue
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        assert files, package["name"]
        for file in files:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file["hash"]), file


def test_committed_lock_is_neutral_already(committed, tool):
    assert clean(tool, committed) == committed


def test_lock_knows_every_member_and_what_it_requires(committed, repository):
    """A dependency added to a project file but not locked would be missed by ``make install``."""
    packages = {p["name"]: p for p in tomllib.loads(committed)["package"]}
    for pattern in ("shared", "packages/*", "apps/*"):
        for path in repository.glob(f"{pattern}/pyproject.toml"):
            project = tomllib.loads(path.read_text())["project"]
            locked = packages[project["name"]]
            assert locked["version"] == project["version"]
            extras = project.get("optional-dependencies", {})
            wanted = [*project["dependencies"], *(r for rs in extras.values() for r in rs)]
            names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in wanted}
            assert names == {r["name"] for r in locked["metadata"]["requires-dist"]}, path


def test_installing_for_editing_leaves_the_lock_neutral(repository, tool, tmp_path):
    """What ``uv sync`` does last, after it has written its index's addresses."""
    spec = importlib.util.spec_from_file_location("hook", repository / "shared" / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "tools").mkdir()
    shutil.copy(tool, tmp_path / "tools")
    lock = tmp_path / "uv.lock"
    hook = module.NeutralLock(str(tmp_path / "shared"), {}, None, None, "", "wheel")
    for version, kept in (("standard", True), ("editable", False)):
        lock.write_text(HYDRATED)
        hook.initialize(version, {})
        assert lock.read_text() == (HYDRATED if kept else clean(tool, HYDRATED))


def test_every_sync_that_writes_the_lock_runs_the_hook(repository):
    project = tomllib.loads((repository / "shared" / "pyproject.toml").read_text())
    assert {"file": "../uv.lock"} in project["tool"]["uv"]["cache-keys"]
    assert "custom" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
