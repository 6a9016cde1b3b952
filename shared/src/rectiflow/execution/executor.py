"""What every engine shares: outcomes, what a worker is told and answers, and who gets a retry."""

from __future__ import annotations

import copy
import dis
import io
import logging
import os
import pickle
import sys
import traceback
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass
from logging.handlers import QueueHandler
from typing import Any, Generic, TypeAlias, TypeVar

Loaded = TypeVar("Loaded")

Open: TypeAlias = Callable[[], Callable[[Any], Any]]
"""Called once by every worker; returns what does a task."""

TRIES = 3
"""Times that a task may end its worker before it is left out."""

THREADS = "OMP_NUM_THREADS"
"""Threads of a worker: as this variable tells, else one, so that workers do not crowd each other
and results do not depend on how many there are."""

_RAISE = dis.opmap["RAISE_VARARGS"]


class LostError(RuntimeError):
    """A task ended its worker each time that it was tried."""


class TaskError(RuntimeError):
    """What went wrong in a worker, where the error itself cannot travel or is a defect."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes
    ----------
    index : int
        Its place in the sequence of tasks.
    value : Any
        What it returned.
    error : Exception, optional
        What it raised instead.
    """

    index: int
    value: Any = None
    error: Exception | None = None

    def get(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


Outcomes: TypeAlias = Generator[Outcome, None, None]
"""As tasks end; closing it ends the workers."""


class Executor(ABC):
    """An engine on which tasks run."""

    is_here = False
    """Whether tasks run in this process, and may share what it has loaded."""

    @abstractmethod
    def run(self, open: Open, tasks: Sequence[Any]) -> Outcomes:
        """Do tasks, and give the outcome of each as it ends.

        Parameters
        ----------
        open : callable
            Called once by every worker; returns what does a task.
        tasks : sequence

        Raises
        ------
        TypeError
            When ``open`` or a task cannot be pickled, where that is needed.
        LostError
            When workers are killed before any has answered.
        Exception
            What ``open`` raises.
        """

    def map(
        self, open: Open, tasks: Sequence[Any], progress: Callable[[int, int], None] | None = None
    ) -> list[Outcome]:
        """Do tasks and return their outcomes in order; ``progress`` is told how many are done."""
        found: dict[int, Outcome] = {}
        with closing(self.run(open, tasks)) as outcomes:
            for outcome in outcomes:
                found[outcome.index] = outcome
                if progress is not None:
                    progress(len(found), len(tasks))
        return [found[index] for index in range(len(tasks))]


@dataclass(frozen=True)
class Here(Executor):
    """Tasks run in this process, one after the other; nothing is pickled."""

    is_here = True

    def run(self, open: Open, tasks: Sequence[Any]) -> Outcomes:
        """Do tasks in their order."""
        if not tasks:
            return
        do = open()
        for index, task in enumerate(tasks):
            try:
                outcome = Outcome(index, do(task))
            except Exception as error:
                outcome = Outcome(index, error=error)
            yield outcome


HERE = Here()


class Loading(Generic[Loaded]):
    """What is loaded when it is first used, and by every worker for itself.

    Parameters
    ----------
    load : callable
        How; this alone is pickled.
    value : optional
        What it returns, where that is at hand.
    """

    def __init__(self, load: Callable[[], Loaded], value: Loaded | None = None) -> None:
        self._load, self._value = load, value

    def __reduce__(self) -> tuple[type[Loading[Loaded]], tuple[Any, ...]]:
        return type(self), (self._load,)

    def __call__(self) -> Loaded:
        """Return it."""
        if self._value is None:
            self._value = self._load()
        return self._value


def require_workers(workers: int) -> None:
    """Raise unless there can be so many workers."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}; expected a number of cores.")


_number = 0


def worker_number() -> int:
    """Return which of the processes on this machine this one is; 0 outside of workers."""
    return _number


@dataclass(frozen=True)
class Sent:
    """What a worker has to know to be like the process that sends it tasks."""

    open: bytes
    folder: str
    path: tuple[str, ...]
    threads: int

    @classmethod
    def of(cls, open: Open) -> Sent:
        """Pack ``open`` with the place of this process."""
        return cls(pickled(open), os.getcwd(), tuple(sys.path), threads_of_workers())

    def enter(self, number: int = 0) -> Callable[[Any], Any]:
        """Become like the sender, and open."""
        global _number
        _number = number
        os.chdir(self.folder)
        sys.path += [place for place in self.path if place not in sys.path]
        os.environ[THREADS] = str(self.threads)  # heeded by a torch that is not imported yet
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self.threads)
        return unpacked(self.open)()


def threads_of_workers() -> int:
    """Return how many threads each worker computes with."""
    told = os.environ.get(THREADS, "")
    return max(1, int(told)) if told.isdecimal() else 1


def pickled(value: Any) -> bytes:
    """Pickle what goes to workers.

    Raises
    ------
    TypeError
        Says what cannot be pickled, and why.
    """
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever the __reduce__ of some object raises
        raise TypeError(
            f"this work cannot be sent to workers, got {type(value).__name__} ({error}); expected "
            "what pickle takes, such as a function of a module. Run it here (--on here)."
        ) from error


def unpacked(content: bytes) -> Any:
    """Return what :func:`pickled` packed.

    This runs what the sender chose, as work for other processes must: so it is called on what comes
    from this user's own processes alone. That is a pipe of theirs, a Ray that this user joined, or
    a folder that is closed to all other users; never a file that somebody hands over.
    """
    return pickle.loads(content)


class Worker:
    """Does tasks in a process of its own; opens when the first one comes."""

    def __init__(self, sent: Sent, number: int = 0) -> None:
        self._sent, self._number = sent, number
        self._do: Callable[[Any], Any] | None = None

    def __call__(self, task: bytes) -> bytes:
        """Do a task and return the packed answer, with what was said meanwhile."""
        value, error = None, None
        with _listening() as (records, text):
            try:
                if self._do is None:
                    self._do = self._sent.enter(self._number)
                value = self._do(unpacked(task))
            except Exception as raised:
                error = _travelling(raised)
        opened = self._do is not None
        try:
            return pickle.dumps(Answer(value, error, opened, records, text.getvalue()))
        except Exception as raised:
            problem = TaskError(f"the answer of a task cannot be pickled ({raised}).")
            return pickle.dumps(Answer(None, problem, opened, records, text.getvalue()))


@dataclass(frozen=True)
class Answer:
    """What a worker says of a task: its outcome, and all that was logged and written meanwhile."""

    value: Any
    error: Exception | None
    is_open: bool
    records: list[logging.LogRecord]
    text: str

    def tell(self, warned: set[str]) -> None:
        """Say here what was said there; the same warning of several workers once."""
        for record in self.records:
            if record.name == "py.warnings":
                if record.getMessage() in warned:
                    continue
                warned.add(record.getMessage())
            logger = logging.getLogger(record.name)
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)
        if self.text:
            sys.stderr.write(self.text)


class _Listener(QueueHandler):
    """Keeps records in a form that can be pickled."""

    def __init__(self) -> None:
        super().__init__([])  # type: ignore[arg-type]

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.append(record)  # type: ignore[attr-defined]


@contextmanager
def _listening() -> Iterator[tuple[list[logging.LogRecord], io.StringIO]]:
    """Keep what is logged, warned of and written to stderr."""
    listener, text, root = _Listener(), io.StringIO(), logging.getLogger()
    root.addHandler(listener)
    logging.captureWarnings(True)
    try:
        with redirect_stderr(text):
            yield listener.queue, text
    finally:
        logging.captureWarnings(False)
        root.removeHandler(listener)


def _travelling(error: Exception) -> Exception:
    """Return an error as it is to be raised by the sender, with the traceback as a note.

    One that our code raised on purpose, or the machine, stays what it is if pickle allows; any
    other is a defect, which its class alone would not tell any more.
    """
    trace = "".join(traceback.format_exception(error)).rstrip()
    told: Exception = TaskError(f"{type(error).__name__}: {error}")
    if isinstance(error, OSError) or _is_on_purpose(error):
        try:
            pickle.dumps(error)
            told = copy.copy(error)  # made anew as pickle would
        except Exception:
            told = ValueError(str(error)) if isinstance(error, ValueError) else told
    told.add_note(f"in a worker:\n{trace}")
    return told


def _is_on_purpose(error: Exception) -> bool:
    """Say whether a ``raise`` of a ``rectiflow*`` module made it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    is_ours = str(last.tb_frame.f_globals.get("__name__", "")).startswith("rectiflow")
    return is_ours and last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE


class Ledger:
    """Which tasks of a batch wait, which are done, and how often each ended its worker.

    Attributes
    ----------
    waiting : deque of int
    done : set of int
    """

    def __init__(self, tasks: Sequence[Any]) -> None:
        self._tasks = tasks
        self.waiting = deque(range(len(tasks)))
        self.done: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._answered, self._lost = False, 0
        self._warned: set[str] = set()

    @property
    def left(self) -> int:
        """Number of tasks that are not done."""
        return len(self._tasks) - len(self.done)

    def task(self, index: int) -> bytes:
        """Return a task packed."""
        return pickled(self._tasks[index])

    def answer(self, index: int, packed: bytes) -> Outcome:
        """Take an answer, and say what was said."""
        answer: Answer = unpacked(packed)
        answer.tell(self._warned)
        if not answer.is_open:
            assert answer.error is not None
            raise answer.error
        self._answered = True
        self.done.add(index)
        return Outcome(index, answer.value, answer.error)

    def died(self, index: int, how: str) -> Outcome | None:
        """Give a task whose worker ended a retry, or up."""
        self._deaths[index] += 1
        if self._deaths[index] < TRIES:
            self.waiting.appendleft(index)
            return None
        self.done.add(index)
        self._lost += 1
        error = LostError(
            f"task {index + 1} of {len(self._tasks)} ended its worker {TRIES} times ({how}); it is "
            "left out. Is there memory enough for as many workers?"
        )
        if self._lost == TRIES and not self._answered:
            raise error
        return Outcome(index, error=error)
