"""What an installed wheel holds; built with the backend alone, so that nothing is fetched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = [
    path.parent
    for pattern in ("shared", "packages/*", "apps/*")
    for path in sorted(REPOSITORY.glob(f"{pattern}/pyproject.toml"))
]


def build(member: Path, kind: str, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    subprocess.run(command, cwd=member, check=True, capture_output=True)
    [made] = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Every member's wheel by the member's folder name."""
    folder = tmp_path_factory.mktemp("wheels")
    return {member.name: build(member, "wheel", folder / member.name) for member in MEMBERS}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory) -> Path:
    """A folder with all wheels unpacked, as pip would lay them."""
    folder = tmp_path_factory.mktemp("installed")
    for wheel in wheels.values():
        zipfile.ZipFile(wheel).extractall(folder)
    return folder


def python(code: str, installed: Path, cwd: Path) -> str:
    """Run code against the unpacked wheels, which go before the editable ones."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_wheel_holds_its_source_and_marker(wheels):
    for member in MEMBERS:
        names = set(zipfile.ZipFile(wheels[member.name]).namelist())
        for path in (member / "src").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(member / "src").as_posix() in names
        assert not [name for name in names if "/tests/" in name or "__pycache__" in name]


def test_cli_wheel_carries_the_configs(wheels):
    names = set(zipfile.ZipFile(wheels["cli"]).namelist())
    for path in (REPOSITORY / "configs").rglob("*.yaml"):
        assert (
            f"rectiflow_cli/configs/{path.relative_to(REPOSITORY / 'configs').as_posix()}" in names
        )


def test_cli_sdist_builds_the_same_wheel_without_the_workspace(wheels, tmp_path):
    sdist = build(REPOSITORY / "apps" / "cli", "sdist", tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    again = build(source, "wheel", tmp_path / "again")

    def contents(wheel: Path) -> dict[str, int]:
        return {
            i.filename: i.CRC
            for i in zipfile.ZipFile(wheel).infolist()
            if "dist-info" not in i.filename
        }

    assert contents(again) == contents(wheels["cli"])


def test_configs_are_found_from_an_installed_wheel(installed, tmp_path):
    code = "from rectiflow_cli.config_root import config_root; print(config_root())"
    assert Path(python(code, installed, tmp_path)) == installed / "rectiflow_cli" / "configs"


def test_training_config_composes_from_an_installed_wheel(installed, tmp_path):
    code = (
        "from rectiflow_cli.hydra_app import compose;"
        "cfg = compose('protein', 'train', ['debug=tiny']); print(cfg.trainer.max_steps)"
    )
    assert python(code, installed, tmp_path) == "3"


def test_members_share_one_version_and_ask_for_it():
    projects = [tomllib.loads((m / "pyproject.toml").read_text())["project"] for m in MEMBERS]
    [version] = {project["version"] for project in projects}
    major, minor, _ = map(int, version.split("."))
    bounds = f">={major}.{minor},<{major}.{minor + 1}"
    for project in projects:
        extras = project.get("optional-dependencies", {}).values()
        for requirement in [*project["dependencies"], *(r for rs in extras for r in rs)]:
            if match := re.match(r"(rectiflow[\w-]*)(\[.*\])?(.*)", requirement):
                is_own_extra = match[1] == project["name"]
                assert match[3] == bounds or is_own_extra or match[2], requirement
    assert f"version: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()
