"""Odd terminals, closed streams, full disks: one line, the right exit code, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trials import command

HELP = [sys.executable, "-m", "rectiflow_cli", "protein", "--help"]  # answers without torch
LETTERS = [sys.executable, "-m", "rectiflow_cli", "protein", "prepare", "--help"]


def run(
    words: list[str], shell: str = "", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run words, with redirections of a shell, in an environment."""
    env = {**os.environ, **environment}
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *words],
        capture_output=True,
        env=env,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),  # the next lacks more
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    ],
)
def test_help_has_letters_that_the_terminal_lacks(environment: dict[str, str]) -> None:
    done = run(LETTERS, **environment)
    assert done.returncode == 0, done.stderr
    assert b"Not included" in done.stdout


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("<&-", 0),
        (">/dev/full", 2),
    ],
)
def test_streams_that_are_closed_or_full(shell: str, code: int) -> None:
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    done = run(HELP, shell)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith(b"rectiflow: error: ")
        assert b"disk is full" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(HELP, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_with_stderr_closed_keeps_its_code() -> None:
    words = [*HELP[:-1], "prepare", "--no-such-flag"]
    assert run(words, "2>&-").returncode == 2


def test_queries_in_bytes_that_are_no_text(tmp_path: Path) -> None:
    from argparse import ArgumentTypeError

    from rectiflow.commands import words

    assert words("собака лает") == "собака лает"
    assert words("собака".encode().decode("ascii", "surrogateescape")) == "собака"
    with pytest.raises(ArgumentTypeError, match="LC_ALL"):
        words(os.fsdecode("собака".encode("koi8-r")))


def test_sizes_beyond_the_machine_say_what_they_need(tmp_path: Path) -> None:
    words = ("protein", "sample", "--length", "1000000", "--steps", "2", "-o", tmp_path / "out")
    assert command(*words).refuses("1000000 residues need at least", "TiB of memory")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    words = ("protein", "sample", "--length", "12", "--steps", "2", "-o", tmp_path / "locked/out")
    assert command(*words).refuses("permission is denied")


def test_a_folder_in_which_every_file_fails(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"RIFF")
    words = ("audio", "separate", folder, "--query", "rain", "--steps", "1", "-o", tmp_path / "o")
    assert command(*words).refuses("none of 2 inputs")


def test_file_names_that_are_no_text_do_not_stop_a_batch(tmp_path: Path) -> None:
    from rectiflow_protein.examples import PROTEIN_G

    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a.pdb", b"caf\xe9.pdb"):
        shutil.copy(PROTEIN_G, os.fsencode(folder) + b"/" + name)
    (folder / "broken.pdb").write_text("nothing")
    answer = command("protein", "eval", folder, "-o", tmp_path / "measured")
    assert answer.code == 0, answer.err
    assert "passed over" in answer.err
    assert len((tmp_path / "measured" / "metrics.csv").read_text().splitlines()) == 3
    words = ("protein", "prepare", folder, "--min-length", "5", "-o", tmp_path / "shards")
    answer = command(*words)
    assert answer.code == 0, answer.err
    assert r"caf\udce9.pdb" in (tmp_path / "shards" / "metadata.csv").read_text()
