"""Tasks on Ray: a cluster, or this machine."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rectiflow.execution.executor import (
    THREADS,
    Executor,
    Ledger,
    Open,
    Outcomes,
    Sent,
    Worker,
    require_workers,
    threads_of_workers,
)

_LOCAL = {
    # Read when Ray is imported or started: keep to loopback, and send nothing home.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine takes minutes to start.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
_QUIET = {"log_to_driver": False, "logging_level": "ERROR"}


@dataclass(frozen=True)
class Ray(Executor):
    """Tasks run on Ray.

    They are tasks of Ray, whose processes keep what they opened, and no actors: when a node dies
    its tasks are given to others. A cluster has this package, and sees the folders of this process.

    Parameters
    ----------
    workers : int
        Tasks at a time.
    address : str
        Of a cluster; if empty, one on the loopback of this machine is started and ended. One that
        the process has joined already is used as it is.
    device : str
        Unless ``"cpu"``, each task is given a GPU, or a share of one, where the cluster has some.

    Raises
    ------
    ValueError
        When ``workers`` is not positive.
    """

    workers: int
    address: str = ""
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_workers(self.workers)

    def run(self, open: Open, tasks: Sequence[Any]) -> Outcomes:
        """Do tasks, as many at a time as there are workers."""
        ledger, sent = Ledger(tasks), Sent.of(open)
        if not tasks:
            return
        ray = import_ray(local=not self.address)
        is_ours = not ray.is_initialized()
        running: dict[Any, int] = {}
        try:
            if is_ours:
                self._join(ray)
            gpus = ray.cluster_resources().get("GPU", 0) if self.device != "cpu" else 0
            told = {"max_retries": 0, "num_cpus": 1, "num_gpus": min(1.0, gpus / self.workers)}
            work, shared = ray.remote(**told)(_work), ray.put(sent)
            while ledger.left:
                while ledger.waiting and len(running) < self.workers:
                    index = ledger.waiting.popleft()
                    running[work.remote(shared, ledger.task(index))] = index
                done, _ = ray.wait(list(running), num_returns=1)
                index = running.pop(done[0])
                try:
                    outcome = ledger.answer(index, ray.get(done[0]))
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError as error:
                    if (lost := ledger.died(index, type(error).__name__)) is None:
                        continue
                    outcome = lost
                yield outcome
        finally:
            for each in running:
                ray.cancel(each, force=True)
            if is_ours:
                ray.shutdown()

    def _join(self, ray: Any) -> None:
        if not self.address:
            start_here(ray, self.workers)
            return
        try:
            ray.init(self.address, **_QUIET)
        except (ConnectionError, ValueError) as error:
            raise ValueError(
                f"no Ray cluster answers at {self.address!r} ({error}); expected the address that "
                "`ray start --head` told, such as 10.0.0.1:6379."
            ) from error


def start_here(ray: Any, workers: int, **options: Any) -> None:
    """Start Ray on the loopback of this machine."""
    ray.init("local", num_cpus=workers, include_dashboard=False, **_QUIET, **options)


def import_ray(*, local: bool = True) -> Any:
    """Import Ray; ``local`` binds what it starts to loopback, by what it reads when imported."""
    if local:
        for name, value in {**_LOCAL, THREADS: str(threads_of_workers())}.items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "Ray is not installed. Get it with: pip install 'rectiflow[ray]', or run the work with "
            "--on processes."
        ) from error
    return ray


@functools.lru_cache(maxsize=1)
def _worker(sent: Sent) -> Worker:
    return Worker(sent)


def _work(sent: Sent, task: bytes) -> bytes:
    """Do a task in a process that may have opened already."""
    return _worker(sent)(task)
