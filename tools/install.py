"""Make ``.venv`` hold exactly the locked packages, every file checked against its hash.

Needs nothing but this Python: uv is fetched with pip into ``.toolchain/`` where it is not on PATH.
The git tree stays clean.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
TOOLCHAIN = ROOT / ".toolchain"
UV_VERSION = (0, 9)  # the least that pyproject.toml accepts
ENVIRONMENT = {  # what the user has set goes first
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
    "UV_COMPILE_BYTECODE": "1",  # once, where each process would do it if told to write none
    "UV_SYSTEM_CERTS": "1",  # trust what the machine trusts, as pip does
    "UV_NATIVE_TLS": "1",  # the same, for uv before 0.11
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}


def run(*command: str | Path) -> None:
    """Run a command in the repository root, showing it first; stop on failure."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    environment = ENVIRONMENT | os.environ
    environment.pop("VIRTUAL_ENV", None)
    status = subprocess.run(words, cwd=ROOT, env=environment, check=False).returncode
    if status:
        sys.exit(f"install: {words[0]} ended with exit code {status}")


def version_of(uv: str | Path) -> tuple[int, ...]:
    """Return ``(major, minor)`` of a uv executable, or an empty tuple where it does not run."""
    try:
        answer = subprocess.run([uv, "--version"], capture_output=True, text=True, check=True)
        return tuple(int(part) for part in answer.stdout.split()[1].split(".")[:2])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
        return ()


def find_uv() -> Path:
    """Return a uv that is new enough, fetching a private one where there is none."""
    private = TOOLCHAIN / "bin" / "uv"
    for candidate in (shutil.which("uv"), private):
        if candidate and version_of(candidate) >= UV_VERSION:
            return Path(candidate)
    run(sys.executable, "-m", "venv", TOOLCHAIN)
    run(TOOLCHAIN / "bin" / "python", "-m", "pip", "install", "--quiet", "uv>=0.9,<1")
    return private


def members() -> list[Path]:
    """Return the folders of the workspace's packages."""
    return [
        project.parent
        for pattern in ("shared", "packages/*", "apps/*")
        for project in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))
    ]


def main() -> None:
    """Create or update the environment."""
    if not (3, 11) <= sys.version_info[:2] < (3, 14):
        sys.exit(f"install: Python 3.11, 3.12 or 3.13 is needed, got {sys.version.split()[0]}")
    uv = find_uv()
    python = VENV / "bin" / "python"
    if not python.exists():
        run(uv, "venv", "--quiet", "--python", sys.executable, VENV)
    pins = VENV / "pins.txt"
    run(
        *(uv, "export", "--quiet", "--frozen", "--all-packages", "--no-emit-local"),
        *("--no-header", "--no-annotate", "--output-file", pins),
    )
    run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", pins)
    editable = [word for member in members() for word in ("--editable", str(member))]
    run(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", *editable)
    run(uv, "pip", "check", "--quiet", "--python", python)


if __name__ == "__main__":
    main()
