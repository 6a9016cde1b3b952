"""What the trials share: other processes, commands with their answers, damaged bytes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")  # another process, without importing torch again


def started(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """Start a process that ends when this one does, however it ends."""
    process = FORK.Process(target=_bound, args=(function, *args), daemon=True)
    process.start()
    return process


def _bound(function: Callable[..., Any], *args: Any) -> None:
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
    function(*args)


@dataclass(frozen=True)
class Answer:
    """What a command said and returned."""

    code: int
    out: str
    err: str

    def refuses(self, *words: str) -> bool:
        """Say whether it is one line of refusal that holds the words."""
        lines = [line for line in self.err.splitlines() if line.startswith("rectiflow: error: ")]
        return self.code == 2 and len(lines) == 1 and all(word in lines[0] for word in words)


def command(*words: str | Path, folder: Path | None = None) -> Answer:
    """Run a command of ``rectiflow`` in a process of its own and wait for it."""
    process, out, err = start(*words, folder=folder)
    process.join()
    answer = Answer(process.exitcode or 0, out.read_text("utf-8"), err.read_text("utf-8"))
    out.unlink()
    err.unlink()
    return answer


def start(*words: str | Path, folder: Path | None = None) -> tuple[BaseProcess, Path, Path]:
    """Start a command; return its process and the files of what it says."""
    import tempfile

    out, err = (Path(tempfile.mkstemp()[1]) for _ in range(2))
    return started(_run, list(map(str, words)), folder, out, err), out, err


def _run(words: list[str], folder: Path | None, out: Path, err: Path) -> None:
    from rectiflow_cli.main import main

    if folder is not None:
        os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def damaged(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` damaged copies: flipped, cut, repeated, zeroed and foreign bytes.

    Parameters
    ----------
    content : bytes
        Not empty.
    count : int
        How many.
    seed : int
        With the number of a copy fixes it.
    """
    for number in range(count):
        dice = random.Random(f"{seed} {number}")
        copy = bytearray(content)
        for _ in range(dice.choice((1, 1, 1, 2, 5))):
            _CHANGES[dice.randrange(len(_CHANGES))](copy, dice)
        yield bytes(copy)


def _place(copy: bytearray, dice: random.Random) -> int:
    # Half of them in the head, where the form of a file is told.
    return dice.randrange(max(1, min(len(copy), dice.choice((200, len(copy) or 1)))))


def _flip(copy: bytearray, dice: random.Random) -> None:
    if copy:
        copy[_place(copy, dice) % len(copy)] ^= 1 << dice.randrange(8)


def _cut(copy: bytearray, dice: random.Random) -> None:
    del copy[_place(copy, dice) :]


def _drop(copy: bytearray, dice: random.Random) -> None:
    at = _place(copy, dice)
    del copy[at : at + dice.choice((1, 4, 64, 1000))]


def _repeat(copy: bytearray, dice: random.Random) -> None:
    at, size = _place(copy, dice), dice.choice((1, 8, 80, 500))
    copy[at:at] = copy[at : at + size]


def _zero(copy: bytearray, dice: random.Random) -> None:
    at, size = _place(copy, dice), dice.choice((1, 8, 80))
    copy[at : at + size] = bytes(len(copy[at : at + size]))


def _foreign(copy: bytearray, dice: random.Random) -> None:
    at = _place(copy, dice)
    copy[at : at + dice.choice((0, 8))] = dice.choice(
        (b"\xff\xfe", b"nan", b"-1", b"1e999", b"\x00", b'"', b"99999999999999999999", b"\n", b",")
    )


_CHANGES = (_flip, _cut, _drop, _repeat, _zero, _foreign)
