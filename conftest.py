"""What every test of the workspace shares: markers, seeds, threads, places of data."""

from __future__ import annotations

import importlib.util
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow``."""
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """Give each parallel worker one thread, its subprocesses included.

    The process that starts the workers sets it for them: theirs have imported numpy by now.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker or getattr(config.option, "numprocesses", None):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = "1"  # read when numpy and torch are imported
    if is_worker and (torch := sys.modules.get("torch")):
        torch.set_num_threads(1)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this run cannot do, saying why."""
    unmet = {
        "slow": None if config.getoption("--slow") else "slow: run with --slow",
        "weights": None if os.environ.get("RECTIFLOW_WEIGHTS") else "set RECTIFLOW_WEIGHTS=DIR",
    }
    if any(item.get_closest_marker("gpu") for item in items):
        unmet["gpu"] = None if _has_cuda() else "no CUDA device"
    for item in items:
        for name, reason in unmet.items():
            if reason and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Give each parallel worker its one thread back, whatever an earlier test did: sums tell."""
    torch = sys.modules.get("torch")
    if torch and "PYTEST_XDIST_WORKER" in os.environ and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same global random state; libraries do not use it, tests may."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on two cores of this machine, started once: it takes seconds."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    from rectiflow.execution.ray import import_ray, start_here

    ray = import_ray()
    folder = str(tmp_path_factory.mktemp("ray"))
    start_here(ray, 2, _temp_dir=folder, object_store_memory=100 << 20)
    yield
    ray.shutdown()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch use one thread, so that sums come out the same."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that the tests of a module share."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def in_work(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the folder that the tests of the module share."""
    monkeypatch.chdir(work)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real input files, ``data/`` under RECTIFLOW_SHARED; skip without it."""
    shared = Path(os.environ.get("RECTIFLOW_SHARED", REPOSITORY.parent / "shared"))
    if not (shared / "data").is_dir():
        pytest.skip(f"no folder {shared / 'data'}; set RECTIFLOW_SHARED")
    return shared / "data"


class Golden:
    """Reference tensors: ``tests/golden`` and, if set, the folder RECTIFLOW_GOLDEN."""

    def __init__(self) -> None:
        extra = os.environ.get("RECTIFLOW_GOLDEN")
        self.folders = [REPOSITORY / "tests" / "golden", *([Path(extra)] if extra else [])]

    def __call__(self, name: str) -> Path:
        """Return the file of that name."""
        for folder in self.folders:
            if (folder / name).is_file():
                return folder / name
        raise FileNotFoundError(f"golden file {name!r} is in none of {self.folders}")

    def matching(self, prefix: str, suffix: str = ".safetensors") -> list[Path]:
        """Return every file of that prefix and suffix, one per name, in order of name."""
        found = {
            path.name: path
            for folder in reversed(self.folders)
            for path in folder.glob(f"{prefix}*{suffix}")
        }
        return [found[name] for name in sorted(found)]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Return the finder of reference tensors."""
    return Golden()
