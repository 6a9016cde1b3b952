"""Tasks on Slurm, by submitit: jobs that take tasks from a folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectiflow.execution.executor import (
    TRIES,
    Executor,
    Ledger,
    LostError,
    Open,
    Outcome,
    Outcomes,
    Sent,
    Worker,
    pickled,
    require_workers,
    unpacked,
)
from rectiflow.storage.faults import StorageError
from rectiflow.storage.files import staging

_HOURS = 24  # that a job may last; SBATCH_TIMELIMIT wins
_PAUSES_S = (0.05, 2.0)  # between two looks at the folder
_PATIENCE_S = 60.0
_FORGOTTEN_S = 300.0  # after which jobs take it that nobody waits for them


@dataclass(frozen=True)
class Slurm(Executor):
    """Tasks run in jobs of Slurm, each of which takes one after the other until none is left.

    A task is a file, and whoever renames it has it; this folder is all that goes between.
    Partition, time, memory and the like are told by the variables that ``sbatch`` reads
    (``SBATCH_PARTITION``, ``SBATCH_TIMELIMIT``, ``SBATCH_MEM_PER_CPU``, ...).

    Parameters
    ----------
    workers : int
        Jobs at a time.
    folder : Path
        Seen by all nodes; tasks and answers are in a hidden folder of it.
    cluster : str
        As submitit names it: ``"local"`` starts the same jobs as processes of this machine.
    device : str
        With ``"cuda"`` each job asks for a GPU.

    Raises
    ------
    ValueError
        When ``workers`` is not positive.
    """

    workers: int
    folder: Path = Path()
    cluster: str = "slurm"
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_workers(self.workers)

    def run(self, open: Open, tasks: Sequence[Any]) -> Outcomes:
        """Do tasks, as many at a time as there are jobs."""
        ledger, sent = Ledger(tasks), Sent.of(open)
        if not tasks:
            return
        with staging(self.folder.resolve()) as folder:
            queue = _Queue(folder, ledger, sent)
            submit = self._submitter(folder / "jobs")
            jobs: dict[str, Any] = {}
            count = fruitless = 0
            pause = _PAUSES_S[0]
            try:
                while ledger.left:
                    while queue.waiting() and len(jobs) < min(self.workers, ledger.left):
                        name, count = f"{count:06d}", count + 1
                        jobs[name] = submit.submit(_work, folder, name)
                    found = list(queue.answers())
                    ended = [name for name, job in jobs.items() if job.done()]
                    found += list(queue.answers()) if ended else []
                    yield from found
                    for name in ended:
                        job = jobs.pop(name)
                        taken = queue.taken_by(name)
                        how = f"{job.state}; {_last_line(job)}" if taken or queue.waiting() else ""
                        yield from filter(None, [queue.died(index, how) for index in taken])
                        fruitless = 0 if found or taken else fruitless + bool(how)
                        if fruitless == TRIES * self.workers:
                            raise LostError(f"jobs end before they take a task ({how}).")
                    pause = _PAUSES_S[0] if found else min(1.5 * pause, _PAUSES_S[1])
                    if ledger.left and not found:
                        time.sleep(pause)
            finally:
                queue.close()
                # Local jobs find nothing left and end, and to cancel them is noisy.
                end = time.monotonic() + _PATIENCE_S * (self.cluster == "local" and not ledger.left)
                while time.monotonic() < end and not all(job.done() for job in jobs.values()):
                    time.sleep(_PAUSES_S[0])
                for job in jobs.values():
                    if not job.done():
                        job.cancel(check=False)

    def _submitter(self, logs: Path) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise ValueError(
                "submitit, which speaks to Slurm, is not installed. Get it with: pip install "
                "'rectiflow[slurm]', or run the work with --on processes."
            ) from error
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError(
                "there is no sbatch on this machine; expected a node of a Slurm cluster from which "
                "jobs are submitted. Try the same jobs on this machine with --on slurm:local."
            )
        submit = submitit.AutoExecutor(logs, cluster=self.cluster)
        submit.update_parameters(
            name="rectiflow",
            timeout_min=60 * _HOURS,
            **({"gpus_per_node": 1} if self.device.startswith("cuda") else {}),
        )
        return submit


class _Queue:
    """The folder between the driver and its jobs, as the driver sees it."""

    def __init__(self, folder: Path, ledger: Ledger, sent: Sent) -> None:
        folder.chmod(stat.S_IRWXU)  # what lies in it is run
        self.folder, self._ledger = folder, ledger
        for name in ("waiting", "taken", "answers"):
            (folder / name).mkdir()
        (folder / "open").write_bytes(pickled(sent))
        (folder / "alive").touch()
        while ledger.waiting:
            self._put(ledger.waiting.popleft())

    def _put(self, index: int) -> None:
        part = self.folder / f"{index:09d}"
        part.write_bytes(self._ledger.task(index))
        part.rename(self.folder / "waiting" / part.name)

    def waiting(self) -> list[str]:
        """Return the names of tasks that nobody has taken, and say that somebody waits for them."""
        os.utime(self.folder / "alive")
        return os.listdir(self.folder / "waiting")

    def answers(self) -> Iterator[Outcome]:
        """Take the answers that are there."""
        for name in sorted(os.listdir(self.folder / "answers")):
            path = self.folder / "answers" / name
            packed = path.read_bytes()
            path.unlink()
            yield self._ledger.answer(int(name), packed)

    def taken_by(self, job: str) -> list[int]:
        """Return the tasks that a job has taken and not answered."""
        own = self.folder / "taken" / job
        found = [int(name) for name in os.listdir(own) if name.isdecimal()] if own.is_dir() else []
        return [index for index in found if index not in self._ledger.done]

    def died(self, index: int, how: str) -> Outcome | None:
        """Give the task of a job that ended a retry, or up."""
        outcome = self._ledger.died(index, how)
        while self._ledger.waiting:
            self._put(self._ledger.waiting.popleft())
        return outcome

    def close(self) -> None:
        """Tell jobs that nobody waits any more."""
        (self.folder / "alive").unlink(missing_ok=True)


def _work(folder: Path, name: str) -> None:
    """Take tasks and answer them, until none is left or nobody waits for them."""
    own = folder / "taken" / name
    # The folder goes when its driver does, or when the next one sweeps what a killed one left.
    with contextlib.suppress(FileNotFoundError):
        require_private(folder)
        own.mkdir()
        worker = Worker(unpacked((folder / "open").read_bytes()))
        while names := sorted(os.listdir(folder / "waiting")):
            for task in names:
                if time.time() - (folder / "alive").stat().st_mtime > _FORGOTTEN_S:
                    return
                try:
                    (folder / "waiting" / task).rename(own / task)
                except FileNotFoundError:
                    continue  # another job was faster
                part = own / f"{task}.answer"
                part.write_bytes(worker((own / task).read_bytes()))
                part.rename(folder / "answers" / task)
                (own / task).unlink()


def require_private(folder: Path) -> None:
    """Raise unless a folder is this user's, and closed to all others.

    Raises
    ------
    StorageError
    """
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & ~stat.S_IRWXU:
        raise StorageError(
            f"{folder} is open to others, got mode {stat.S_IMODE(found.st_mode):o} of user "
            f"{found.st_uid}; expected 700 of {os.getuid()}, since tasks in it are run. Use a "
            "folder on a file system that keeps modes."
        )


def _last_line(job: Any) -> str:
    told = (job.stderr() or "").strip().splitlines()
    return told[-1][:200] if told else "it wrote no error"
