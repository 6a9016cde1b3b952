"""Executors: the same from every engine, whatever becomes of workers, drivers and errors."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from contextlib import closing
from pathlib import Path

import pytest
from rectiflow.commands.parser import executor_of, pick_device
from rectiflow.execution import HERE, LostError, Processes, Ray, Slurm, TaskError, executor

sys.path.insert(0, str(Path(__file__).parent))

import batch_work as work

TASKS = range(5)


RAY = pytest.param("ray", marks=pytest.mark.slow)  # starts for long; verbs on Ray are quick tests


@pytest.fixture(params=["processes", RAY, "slurm"])
def engine(request, tmp_path):
    """Every engine that has workers."""
    if request.param == "ray":
        request.getfixturevalue("ray_here")
        return Ray(2)
    if request.param == "processes":
        return Processes(2)
    pytest.importorskip("submitit")
    return Slurm(2, tmp_path, "local")


def test_every_engine_does_the_same_and_loses_nobody_by_a_killed_worker(engine, tmp_path):
    """One run has it all: a worker is killed, tasks fail in three ways, and talk."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    expected = [each.value for each in HERE.map(work.opening(here), TASKS)]
    seen: list[tuple[int, int]] = []
    mixed = work.Mixed(there, kill=3)
    found = engine.map(mixed, range(9), lambda *each: seen.append(each))
    assert seen == [(i + 1, 9) for i in range(9)]
    assert [each.index for each in found] == list(range(9))
    assert [each.value for each in found[:5]] == expected
    for i in TASKS:
        assert (there / f"{i}.txt").read_bytes() == (here / f"{i}.txt").read_bytes()
    assert (there / "died-3").read_text() == "x"
    assert sorted(map(int, (there / "seen").read_text().split())) == list(TASKS)
    assert len((there / "opened").read_text().split()) <= 4  # once by each worker, not by each task
    odd, defect, shown, threads = found[5:]
    assert "OddError: 1 is not 2" in str(odd.error)
    assert isinstance(defect.error, TaskError)
    assert str(defect.error).startswith("ZeroDivisionError")
    assert "batch_work.py" in "".join(defect.error.__notes__)
    assert "cannot be pickled" in str(shown.error)
    assert threads.value == executor.threads_of_workers()
    assert not list(tmp_path.glob(".*.partial"))


def test_logs_warnings_and_words_of_workers_come_out_here(capsys, caplog, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of handlers that other tests left
    caplog.set_level(logging.WARNING)
    assert [each.get() for each in Processes(2).map(work.talking, range(4))] == list(range(4))
    told = [record.getMessage() for record in caplog.records if record.name == "rectiflow.talk"]
    assert sorted(told) == [f"task {i} logs" for i in range(4)]
    warned = [r for r in caplog.records if r.name == "py.warnings"]
    assert len(warned) == 1
    assert "one and the same" in warned[0].getMessage()
    assert sorted(capsys.readouterr().err.splitlines()) == [f"task {i} writes" for i in range(4)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HERE.map(work.talking, [0])
    assert len(caught) == 1


def test_a_task_that_kills_its_workers_is_left_out(tmp_path):
    found = Processes(2).map(work.Dying(tmp_path, (1,)), range(4))
    assert [each.value for each in found] == [0, None, 2, 3]
    assert (tmp_path / "died-1").read_text() == "xxx"
    with pytest.raises(LostError, match=r"task 2 of 4 ended its worker 3 times \(SIGKILL\)"):
        found[1].get()


def test_workers_that_never_answer_end_the_run(tmp_path):
    with pytest.raises(LostError, match="Is there memory enough"):
        Processes(2).map(work.Dying(tmp_path, tuple(range(50))), range(50))
    assert len(list(tmp_path.iterdir())) <= 4


def test_what_cannot_open_or_be_sent_is_told_at_once():
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        Processes(2).map(work.unready, range(50))
    with pytest.raises(TypeError, match="cannot be sent to workers, got function"):
        Processes(2).map(lambda: None, [1])
    with pytest.raises(TypeError, match="cannot be sent to workers, got function"):
        Processes(1).map(work.unready, [lambda: None])
    assert HERE.map(lambda: abs, [-1])[0].get() == 1
    for kind in (Processes, Ray, Slurm):
        with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
            kind(0)
    assert Processes(2).map(work.unready, []) == []


def test_one_message_for_each_task_however_many(monkeypatch, tmp_path):
    """What ten thousand tiny items cost once chunked: a message for each chunk, no more."""
    answers = []
    original = executor.Ledger.answer
    monkeypatch.setattr(
        executor.Ledger, "answer", lambda *each: answers.append(1) or original(*each)
    )
    chunks = [range(i, i + 100) for i in range(0, 10_000, 100)]
    assert sum(each.get() for each in Processes(2).map(work.adding, chunks)) == sum(range(10_000))
    assert len(answers) == len(chunks)


def running(folder: Path) -> list[int]:
    """Return the workers that sleep in a folder and are there."""
    found = [int(path.name.partition("-")[2]) for path in folder.glob("pid-*")]
    return [pid for pid in found if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_driver(tmp_path, number):
    script = (
        "import signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from pathlib import Path\n"
        "import batch_work as work\n"
        "from rectiflow.execution import Processes\n"
        "if __name__ == '__main__':\n"
        "    Processes(2).map(work.sleeping(Path(sys.argv[2])), [600.0] * 4)\n"
    )
    path = tmp_path / "driver.py"
    path.write_text(script)
    command = [sys.executable, str(path), os.path.dirname(__file__), str(tmp_path)]
    driver = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_for(lambda: len(running(tmp_path)) == 2)
        # As a terminal does, and as somebody who means the driver alone.
        kill = os.killpg if number == signal.SIGINT else os.kill
        kill(driver.pid, number)
        assert driver.wait(120) != 0
        wait_for(lambda: not running(tmp_path))
    finally:
        driver.kill()
        said = driver.communicate()[1].decode()
    assert said.count("Traceback") <= 1, said


def test_an_abandoned_run_leaves_no_worker(tmp_path):
    with closing(Processes(2).run(work.sleeping(tmp_path), [0.0, 600.0, 600.0])) as outcomes:
        assert next(outcomes).index == 0
        wait_for(lambda: len(running(tmp_path)) == 2)
    assert not running(tmp_path)


def test_words_of_the_command_line_name_engines(monkeypatch):
    cores = len(os.sched_getaffinity(0))
    assert executor_of(None, None) == executor_of("here", 1) == HERE
    assert executor_of(None, 3) == executor_of("processes", 3) == Processes(3)
    assert executor_of("processes", None) == Processes(cores)
    assert executor_of("ray:10.0.0.1:6379", 4, "cuda") == Ray(4, "10.0.0.1:6379", "cuda")
    assert executor_of("slurm:local", 2) == Slurm(2, cluster="local")
    for words in (("here", 2), ("Ray", None), ("ray:", None), ("slurm:elsewhere", 1)):
        with pytest.raises(ValueError, match="--on names no engine, got"):
            executor_of(*words)


def test_engines_that_are_not_installed_say_how_to_get_them(monkeypatch, tmp_path):
    for name in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install 'rectiflow\[ray\]'"):
        Ray(1).map(work.unready, [1])
    with pytest.raises(ValueError, match=r"pip install 'rectiflow\[slurm\]'"):
        Slurm(1, tmp_path).map(work.unready, [1])
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match="--on slurm:local"):
        Slurm(1, tmp_path).map(work.unready, [1])
    assert not list(tmp_path.iterdir())


def test_a_queue_that_others_can_write_to_is_refused(tmp_path):
    from rectiflow.execution.slurm import require_private

    queue = tmp_path / "queue"
    queue.mkdir(mode=0o700)
    require_private(queue)
    queue.chmod(0o770)
    with pytest.raises(OSError, match="open to others, got mode 770"):
        require_private(queue)


def test_workers_of_a_machine_take_turns_at_its_devices(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names = []
    for number in range(4):
        monkeypatch.setattr(executor, "_number", number)
        names.append(str(pick_device("cuda")))
    assert names == ["cuda", "cuda:1", "cuda:0", "cuda:1"]
    assert str(pick_device("cuda:0")) == "cuda:0"
    assert pickle.loads(pickle.dumps(Processes(2))) == Processes(2)


def test_errors_travel_as_what_they_are():
    """What was raised on purpose, and what the machine refuses, stays what it is."""
    from rectiflow.storage.faults import FileError, StorageError
    from rectiflow.storage.splits import check_fractions

    def travelled(error: Exception) -> Exception:
        return pickle.loads(pickle.dumps(executor._travelling(error)))

    full = travelled(StorageError("a.pdb: the disk is full. Free some space."))
    assert isinstance(full, StorageError)
    assert str(full).startswith("a.pdb: the disk is full")
    assert isinstance(travelled(FileNotFoundError(2, "absent", "x")), FileNotFoundError)
    with pytest.raises(ValueError, match="fractions") as raised:
        check_fractions({"train": 2.0})
    assert type(travelled(raised.value)) is ValueError
    assert isinstance(travelled(ValueError("raised by nobody of ours")), TaskError)
    told = travelled(FileError("x.wav", "it ends early", "a sound", "Copy it again."))
    assert isinstance(told, TaskError)  # made here, raised by none of our modules
