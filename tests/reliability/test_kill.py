"""Processes killed at any moment: what is there is whole, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rectiflow.rectify import Pair, PairStore, generate_pairs
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import claim
from rectiflow.storage.shards import ShardReader, ShardWriter
from rectiflow.training import RunFolder, read_checkpoint

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "shared" / "tests"))
from tiny_run import tiny_run
from trials import command, start, started


def kills(request: pytest.FixtureRequest) -> int:
    return 60 if request.config.getoption("--slow") else 6


def killed_after(seconds: float, work: Callable[..., Any], *args: Any) -> bool:
    """Start work, kill it, and say whether it was still at it."""
    process = started(work, *args)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".partial" in path.name]


def _write_for_ever(folder: Path) -> None:
    with claim(folder, "results", [f"{i}.json" for i in range(5)]):
        for number in range(10**9):
            write_json(folder / f"{number % 5}.json", {"number": number, "padding": "x" * 50_000})


def test_whole_files(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dice = random.Random(0)
    assert all(
        killed_after(dice.uniform(0.02, 0.3), _write_for_ever, tmp_path)
        for _ in range(kills(request))
    )
    for path in tmp_path.glob("*.json"):
        assert len(json.loads(path.read_text())["padding"]) == 50_000
    with claim(tmp_path, "results", ["0.json"]):
        write_json(tmp_path / "0.json", {})
    assert not partials(tmp_path)


def _write_shards(folder: Path) -> None:
    with ShardWriter(folder, shard_size=2) as writer:
        for number in range(writer.written, 400):
            writer.add({"x": torch.full((50,), float(number))})


def test_shards(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dice = random.Random(1)
    for _ in range(kills(request)):
        killed_after(dice.uniform(0.05, 0.4), _write_shards, tmp_path)
        if (tmp_path / "manifest.json").exists():
            found = [int(record["x"][0]) for record in ShardReader(tmp_path, verify=True)]
            assert found == list(range(len(found)))
    _write_shards(tmp_path)
    assert len(ShardReader(tmp_path, verify=True)) == 400
    assert not partials(tmp_path)


def _pairs(folder: Path, part: int) -> None:
    def sample(indices: list[int]) -> list[Pair]:
        time.sleep(0.002)
        return [Pair(i, torch.full((3,), float(i)), torch.full((3,), -float(i))) for i in indices]

    generate_pairs(
        sample,
        folder,
        num=240,
        batch=4,
        seed=0,
        shard=(part, 2),
        shard_size=8,
        progress=False,
    )


def test_pairs(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dice = random.Random(2)
    for _ in range(kills(request)):
        both = [started(_pairs, tmp_path, part) for part in range(2)]
        time.sleep(dice.uniform(0.05, 0.3))
        for process in both:
            process.kill()
            process.join()
    for part in range(2):
        _pairs(tmp_path, part)
    store = PairStore(tmp_path, verify=True)
    assert store.is_complete
    assert [store[i].index for i in range(240)] == list(range(240))
    assert not partials(tmp_path)


def _train(folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    tiny_run(folder, resume=resume, checkpoint_every=2)


def test_training(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Killed from the first tenth of a second on, it ends as one that was left alone."""
    _train(tmp_path / "whole", False)
    dice = random.Random(3)
    folder = RunFolder(tmp_path / "run")
    for _ in range(kills(request)):
        is_begun = folder.version.exists()
        if not killed_after(dice.uniform(0.1, 1.5), _train, folder.path, is_begun):
            break
    _train(folder.path, folder.version.exists())
    whole = read_checkpoint(RunFolder(tmp_path / "whole").last)
    resumed = read_checkpoint(folder.last)
    assert resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert not partials(folder.path)


def _terminated(folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _write_for_ever(folder)


def test_termination_leaves_what_the_next_run_removes(tmp_path: Path) -> None:
    process = started(_terminated, tmp_path)
    time.sleep(0.2)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    with claim(tmp_path, "results", ["0.json"]):
        write_json(tmp_path / "0.json", {})
    assert not partials(tmp_path)


def test_a_training_by_command(tmp_path: Path) -> None:
    """Killed as soon as its folder tells of it, wherever that lies, it is gone on with."""
    run = tmp_path / "elsewhere" / "run"
    process, *said = start("protein", "train", "debug=tiny", f"run_dir={run}", folder=tmp_path)
    while not (run / "run.json").exists():
        assert process.is_alive(), said[1].read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    for path in said:
        path.unlink()
    moved = tmp_path / "moved"
    run.rename(moved)
    answer = command("protein", "train", f"resume={moved}", "--json", folder=tmp_path)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["run"] == str(moved)
    assert len(json.loads((moved / "run.json").read_text())["starts"]) == 2
    other = tmp_path / "other"
    _write_shards(other)
    answer = command("protein", "train", f"resume={moved}", f"data.dir={other}", folder=tmp_path)
    assert answer.refuses("whose content is another", "weights=")
    assert not partials(tmp_path)
