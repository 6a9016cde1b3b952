"""Whose files are whose, and who may write now."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from rectiflow.storage.files import write_text
from rectiflow.storage.folders import InUseError, TakenError, claim, claim_file, makers_of

FORK = multiprocessing.get_context("fork")  # another process without importing torch again


def _hold(folder: Path, part: int, parts: int, told: Connection) -> None:
    name = "a.txt" if parts == 1 else f"{part}.txt"
    with claim(folder, "results", [name], shard=(part, parts)):
        told.send("held")
        time.sleep(60)


def hold(folder: Path, part: int = 0, parts: int = 1) -> BaseProcess:
    """Start a process that has claimed the folder when this returns."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(folder, part, parts, there))
    process.start()
    assert here.poll(30)
    assert here.recv() == "held"
    return process


def make(folder: Path, maker: str, *names: str, overwrite: bool = False) -> None:
    """Claim the names and write the maker into each."""
    with claim(folder, maker, names, overwrite=overwrite):
        for name in names:
            write_text(folder / name, maker)


def test_own_files_are_replaced_and_foreign_ones_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "results", "a.txt", "b.txt")
    make(out, "results", "a.txt", "c.txt")
    (out / "mine.txt").write_text("user")
    make(out, "results", "a.txt")  # what the claim does not name may lie there
    with pytest.raises(TakenError, match=r"holds mine\.txt, which this command did not make"):
        make(out, "results", "a.txt", "mine.txt")
    assert (out / "mine.txt").read_text() == "user"
    make(out, "results", "mine.txt", overwrite=True)
    assert (out / "mine.txt").read_text() == "results"


def test_another_maker_s_result_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "sounds of a/rain.wav", "rain.wav")
    with pytest.raises(TakenError, match=r"rain\.wav, made as sounds of a/rain\.wav"):
        make(tmp_path, "sounds of b/rain.wav", "rain.wav")


def test_overwriting_removes_what_the_maker_left_but_no_foreign_folder(tmp_path: Path) -> None:
    make(tmp_path, "results", "a.txt", "old.txt")
    make(tmp_path, "others", "other.txt")
    make(tmp_path, "results", "a.txt", overwrite=True)
    assert {p.name for p in tmp_path.glob("*.txt")} == {"a.txt", "other.txt"}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "theirs").write_text("x")
    with pytest.raises(TakenError, match="checkpoints"):
        make(tmp_path, "results", "checkpoints", overwrite=True)
    assert (tmp_path / "checkpoints" / "theirs").read_text() == "x"


@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_never_replaced(tmp_path: Path, link: bool) -> None:
    recording = tmp_path / "rain.wav"
    recording.write_text("sound")
    target = recording
    if link:
        target = tmp_path / "link.wav"
        target.symlink_to(recording)
    with (
        pytest.raises(TakenError, match=r"is the input"),
        claim(tmp_path, "sounds", [target.name], inputs=[recording], overwrite=True),
    ):
        pass
    with (
        pytest.raises(TakenError, match=r"is an input"),
        claim_file(target, inputs=[recording], overwrite=True),
    ):
        pass
    assert recording.read_text() == "sound"


def test_two_results_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TakenError, match=r"2 results would be named rain\.wav"):
        make(tmp_path, "sounds", "rain.wav", "dog.wav", "rain.wav")
    assert not os.listdir(tmp_path)


def test_a_single_file_is_free_or_refused(tmp_path: Path) -> None:
    with claim_file(tmp_path / "a.wav"):
        (tmp_path / "a.wav").write_text("x")
    with pytest.raises(TakenError, match="--overwrite"), claim_file(tmp_path / "a.wav"):
        pass
    with claim_file(tmp_path / "a.wav", overwrite=True):
        pass


def test_a_claim_that_comes_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    with claim(tmp_path / "new" / "out", "results", ["a.txt"]):
        pass
    assert not (tmp_path / "new" / "out").exists()


def test_a_folder_in_use_is_refused_and_a_kill_frees_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(InUseError, match="in use by another process"):
        make(tmp_path, "results", "a.txt")
    with pytest.raises(InUseError), claim(tmp_path, "results", shard=(1, 2)):
        pass
    process.kill()
    process.join()
    make(tmp_path, "results", "a.txt")


def test_shards_share_a_folder_but_not_with_themselves(tmp_path: Path) -> None:
    process = hold(tmp_path, 0, 2)
    with claim(tmp_path, "results", ["1.txt"], shard=(1, 2)):
        write_text(tmp_path / "1.txt", "x")
    with pytest.raises(InUseError), claim(tmp_path, "results", shard=(0, 2)):
        pass
    with pytest.raises(InUseError), claim(tmp_path, "results"):
        pass
    process.kill()
    process.join()
    assert makers_of(tmp_path) == {"0.txt": "results", "1.txt": "results"}


def test_claims_of_one_thread_are_nested(tmp_path: Path) -> None:
    with claim(tmp_path, "results", ["a.txt"]), claim(tmp_path, "results", ["a.txt"]) as inner:
        inner.add(["b.txt"])
        write_text(tmp_path / "a.txt", "x")
    make(tmp_path, "results", "a.txt")


def test_a_forked_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    with claim(tmp_path, "results", ["a.txt"]):
        write_text(tmp_path / "a.txt", "x")
        worker = FORK.Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        process = hold(tmp_path)
        process.kill()
        process.join()
    finally:
        worker.kill()
        worker.join()


def test_a_record_cut_short_by_a_kill_is_continued(tmp_path: Path) -> None:
    make(tmp_path, "results", "a.txt")
    with (tmp_path / ".rectiflow").open("ab") as file:
        file.write(b'{"maker": "results", "na')
    make(tmp_path, "results", "a.txt", "b.txt")
    assert makers_of(tmp_path) == {"a.txt": "results", "b.txt": "results"}
