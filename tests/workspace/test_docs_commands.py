"""Every command and example in the README files and docs/ is executed, or at least parsed.

A fenced block is executed if an HTML comment ``<!-- run -->`` stands before it: shell lines
(``$ ...``) in ``console`` blocks, whole ``python`` blocks. Blocks of one page run in order and
share a folder. All other ``console`` lines are checked against the Makefile, the argument parsers
and the Hydra configs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing.forkserver
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest
from rectiflow_cli import main as umbrella
from rectiflow_cli.config_root import config_root
from rectiflow_cli.hydra_app import compose

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *(
        path
        for folder in ("shared", "packages", "apps")
        for path in REPOSITORY.glob(f"{folder}/**/README.md")
    ),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
BLOCK = re.compile(
    r"(?P<run><!-- run -->\n+)?^```(?P<language>console|python)\n(?P<text>.*?)^```$", re.M | re.S
)
TIMEOUT_S = 300
SHELL = set("|&;<>$`*?~")  # what only a shell understands
ELSEWHERE = {"git", "uv", ".", "cd", "python3", "torchrun"}  # not ours to parse
ELSEWHERE |= {".venv/bin/pre-commit"}


@dataclass(frozen=True)
class Example:
    page: Path
    language: str
    text: str
    is_run: bool

    @property
    def commands(self) -> list[str]:
        joined = self.text.replace("\\\n", " ")
        return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def examples(page: Path) -> list[Example]:
    return [
        Example(page, found["language"], found["text"], bool(found["run"]))
        for found in BLOCK.finditer(page.read_text())
    ]


ALL = [example for page in PAGES for example in examples(page)]
COMMANDS = sorted({command for e in ALL if e.language == "console" for command in e.commands})
RUN_PAGES = sorted({e.page for e in ALL if e.is_run})


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


class Parsed(BaseException):
    """The words of a command were accepted; stop before anything happens."""


@pytest.fixture
def parse_only(monkeypatch):
    """Let argument parsers parse, and nothing run after them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    assert words[0] in targets, f"the Makefile has no target {words[0]!r}"


def check_overrides(domain: str, verb: str, words: list[str]) -> None:
    sweep = bool({"-m", "--multirun"} & set(words))
    overrides = [word for word in words if not word.startswith("-")]
    compose(domain, verb, [word.partition(",")[0] if sweep else word for word in overrides])


def check_ours(words: list[str]) -> None:
    if words[:1] and (config_root() / words[0] / f"{(words[1:2] or ['?'])[0]}.yaml").is_file():
        check_overrides(words[0], words[1], words[2:])
        return
    try:
        code = umbrella.main(words)
    except Parsed:
        return
    except SystemExit as stop:
        code = stop.code
    assert code in (0, None), f"rectiflow {shlex.join(words)} is not accepted"


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_command_exists(command, parse_only):
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # environment variables before the command
        words.pop(0)
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        check_make(rest)
    elif program == "rectiflow":
        check_ours(rest)
    elif program.startswith("rectiflow-"):
        check_ours([program.removeprefix("rectiflow-"), *rest])
    else:
        assert words[0] in ELSEWHERE, f"unknown program in the documentation: {command}"


def run_command(command: str, folder: Path) -> None:
    words = shlex.split(command)
    if words[0].startswith("rectiflow") and not SHELL & set(command):
        code, said = run_in_child([*words[0].split("-")[1:], *words[1:]], folder)
        assert code == 0, f"{command}\n{said}"
        return
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def run_in_child(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command of ours in a child of this process, which has imported what it needs.

    A page has a dozen commands, of which each would spend seconds on importing torch.
    """
    for name in ("lightning", "matplotlib.pyplot", f"rectiflow_{words[0]}.training"):
        with suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            _become_command(words, folder, said.fileno())
        deadline = time.monotonic() + TIMEOUT_S
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        said.seek(0)
        return os.waitstatus_to_exitcode(ended[1]), said.read().decode(errors="replace")


def _become_command(words: list[str], folder: Path, output: int) -> NoReturn:
    code = 1
    try:
        multiprocessing.forkserver._forkserver.__init__()  # that of the parent is not ours
        if torch := sys.modules.get("torch"):
            # Nor are its OpenMP threads: a parallel loop would wait for them.
            torch.set_num_threads(1)
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        code = umbrella.main(words) or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@pytest.fixture
def _own_dtype():
    """An example may change the dtype of new tensors, and may fail before it changes it back."""
    import torch

    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_own_dtype")
@pytest.mark.parametrize("page", RUN_PAGES, ids=relative)
def test_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}  # of the page: a reader goes through it from top to bottom
    for example in filter(lambda example: example.is_run, examples(page)):
        if example.language == "python":
            exec(compile(example.text, relative(page), "exec"), names)
            continue
        assert example.commands, "an example that is run must hold a command"
        for command in example.commands:
            run_command(command, tmp_path)


def test_examples_are_found():
    """An edit to the pattern above must not silence everything."""
    assert len(COMMANDS) > 15
    assert sum(e.is_run for e in ALL) >= 3


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_fence_names_a_language_that_is_checked(page):
    text = page.read_text()
    fences = re.findall(r"^```(\w*)$", text, re.M)[::2]
    assert set(fences) <= {"console", "python", "json", "yaml", "bibtex", ""}
    for document in re.findall(r"^```json\n(.*?)^```$", text, re.M | re.S):
        json.loads(document)
