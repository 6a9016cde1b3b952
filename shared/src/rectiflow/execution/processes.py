"""Tasks in other processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from rectiflow.execution.executor import (
    THREADS,
    Executor,
    Ledger,
    Open,
    Outcome,
    Outcomes,
    Sent,
    Worker,
    require_workers,
)

_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Processes(Executor):
    """Tasks run in processes of this machine, which end with this one however it ends.

    Parameters
    ----------
    workers : int
        How many. Under ``cuda`` they take turns at the devices.

    Raises
    ------
    ValueError
        When ``workers`` is not positive.
    """

    workers: int

    def __post_init__(self) -> None:
        require_workers(self.workers)

    def run(self, open: Open, tasks: Sequence[Any]) -> Outcomes:
        """Do tasks, as many at a time as there are workers."""
        ledger, sent = Ledger(tasks), Sent.of(open)
        crew: list[_Hand] = []
        try:
            while ledger.left:
                _employ(crew, self.workers, ledger, sent)
                outcomes: list[Outcome | None] = []
                for pipe in wait([hand.pipe for hand in crew if hand.index is not None]):
                    [hand] = [each for each in crew if each.pipe is pipe]
                    outcomes.append(_heard(hand, crew, ledger))
                _employ(crew, self.workers, ledger, sent)  # before the answers are used here
                yield from filter(None, outcomes)
            for hand in crew:
                hand.pipe.close()  # on which it ends
            for hand in crew:
                hand.process.join(_PATIENCE_S)
        finally:
            for hand in crew:
                hand.kill()


@dataclass
class _Hand:
    """A worker as the driver sees it; ``index`` is of the task that it does."""

    process: BaseProcess
    pipe: Connection
    number: int
    index: int | None = field(default=None)

    def kill(self) -> None:
        """End it with all that it started."""
        if self.process.is_alive():
            with suppress(ProcessLookupError, PermissionError):  # not yet a group of its own
                os.killpg(self.process.pid or 0, signal.SIGKILL)
            self.process.kill()
        self.process.join()
        self.pipe.close()


def _employ(crew: list[_Hand], workers: int, ledger: Ledger, sent: Sent) -> None:
    """Give the tasks that wait to the workers that are free, as many as there may be."""
    busy = sum(hand.index is not None for hand in crew)
    while len(crew) < min(workers, busy + len(ledger.waiting)):
        taken = {hand.number for hand in crew}
        crew.append(_start(sent, next(i for i in range(workers) if i not in taken)))
    for hand in crew:
        if hand.index is None and ledger.waiting:
            hand.index = ledger.waiting.popleft()
            with suppress(OSError):  # one that has ended, as its silence tells next
                hand.pipe.send_bytes(ledger.task(hand.index))


def _heard(hand: _Hand, crew: list[_Hand], ledger: Ledger) -> Outcome | None:
    """Take a worker's answer, or its end."""
    assert hand.index is not None
    try:
        packed = hand.pipe.recv_bytes()
    except (EOFError, OSError):
        crew.remove(hand)
        hand.process.join(_PATIENCE_S)
        code = hand.process.exitcode
        hand.kill()
        return ledger.died(hand.index, _how(code))
    index, hand.index = hand.index, None
    return ledger.answer(index, packed)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def _start(sent: Sent, number: int) -> _Hand:
    # Workers are forks of a server that has imported what takes long and done nothing else, so
    # that one costs milliseconds, whenever a killed one has to be replaced.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    told = (theirs, sent, number, dict(os.environ))
    # A daemon, so that a generator that nobody closes does not keep this process from ending.
    process = context.Process(target=_serve, args=told, daemon=True)
    with _uninterrupted(), _threads(sent.threads):
        process.start()
    theirs.close()
    return _Hand(process, ours, number)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Tell the server that forks the workers how many threads numpy starts when it is imported."""
    before = os.environ.get(THREADS)
    os.environ[THREADS] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS]
        else:
            os.environ[THREADS] = before


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Start a process that Ctrl-C does not reach: this one tells it when to end."""
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _serve(pipe: Connection, sent: Sent, number: int, environment: dict[str, str]) -> None:
    """Do tasks until there are no more, or the process that sends them ends."""
    os.environ.clear()  # the server's, of when it was started
    os.environ.update(environment)
    os.setpgid(0, 0)  # with what it starts itself, such as a designer of sequences
    # A handler, since to ignore the signal would pass on to programs that this one starts.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    worker = Worker(sent, number)
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send_bytes(worker(pipe.recv_bytes()))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)
