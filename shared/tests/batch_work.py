"""Work that the tests of executors send to workers, which import it."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


class OddError(ValueError):
    """An error that pickle cannot bring back."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} is not {b}")


class Loaded:
    """Stands for a model: writes down each time that it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write(folder / "opened", os.getpid())

    def __call__(self, task: int) -> float:
        write(self.folder / "seen", task)
        drawn = random.Random(task).random()
        (self.folder / f"{task}.txt").write_text(str(drawn))
        return drawn


def write(path: Path, value: int) -> None:
    with path.open("a") as file:
        file.write(f"{value}\n")


def opening(folder: Path) -> Callable[[], Loaded]:
    return partial(Loaded, folder)


class Mixed:
    """Draws for the first five tasks, one of which kills its worker once; the others are odd."""

    def __init__(self, folder: Path, kill: int) -> None:
        self.folder, self.kill = folder, kill

    def __call__(self) -> Callable[[int], Any]:
        model = Loaded(self.folder)
        dying = Dying(self.folder, once=(self.kill,))

        def do(task: int) -> Any:
            if task < 5:
                return model(dying.do(task))
            if task == 5:
                raise OddError(1, 2)
            if task == 6:
                return 1 // 0
            if task == 7:
                return lambda: 0
            import torch

            return torch.get_num_threads()

        return do


def unready() -> Any:
    raise FileNotFoundError("there is no such model; expected one.")


def talking() -> Callable[[int], int]:
    def do(task: int) -> int:
        logging.getLogger("rectiflow.talk").warning("task %d logs", task)
        warnings.warn("one and the same", stacklevel=1)
        sys.stderr.write(f"task {task} writes\n")
        return task

    return do


class Dying:
    """Kills its worker at some tasks: always, or the first time."""

    def __init__(
        self, folder: Path, always: tuple[int, ...] = (), once: tuple[int, ...] = ()
    ) -> None:
        self.folder, self.always, self.once = folder, always, once

    def __call__(self) -> Callable[[int], int]:
        return self.do

    def do(self, task: int) -> int:
        marker = self.folder / f"died-{task}"
        if task in self.always or (task in self.once and not marker.exists()):
            with marker.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return task


def adding() -> Callable[[range], int]:
    return sum


def sleeping(folder: Path) -> Callable[[], Callable[[float], None]]:
    return partial(_sleeping, folder)


def _sleeping(folder: Path) -> Callable[[float], None]:
    def do(seconds: float) -> None:
        (folder / f"pid-{os.getpid()}").touch()
        time.sleep(seconds)

    return do
