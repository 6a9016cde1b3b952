"""Whole writes, refusals as sentences, bounded reading."""

from __future__ import annotations

import bz2
import gzip
import lzma
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rectiflow.storage import files
from rectiflow.storage.faults import FileError, StorageError, said
from rectiflow.storage.files import staging, whole_file, write_json, write_tensors, write_text
from rectiflow.storage.reading import read_bounded, read_json, read_text


def _stop_half_way(path: Path) -> None:
    with whole_file(path) as part:
        part.write_text("ne")
        raise RuntimeError("half way")


def test_a_file_appears_whole_or_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"):
        _stop_half_way(path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_the_mode_of_every_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(2)})
        with whole_file(tmp_path / "a.pt") as part:
            torch.save({}, part)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ("a.json", "a.safetensors", "a.pt"), mode
    )


def _die_while_writing(path: Path) -> None:
    with whole_file(path) as part:
        part.write_text("x")
        os.kill(os.getpid(), signal.SIGKILL)


def test_partials_of_a_dead_process_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # without importing torch again
    process = context.Process(target=_die_while_writing, args=(tmp_path / "a.txt",))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert left.name.endswith(".partial")
    with staging(tmp_path) as living:
        files.sweep(tmp_path)
        assert os.listdir(tmp_path) == [living.name]
    assert not os.listdir(tmp_path)


def test_partials_of_another_machine_are_forgotten_after_a_day(tmp_path: Path) -> None:
    fresh, old = (tmp_path / f".0badcafe-1-{k * 8}-0.partial" for k in "ab")
    for each in (fresh, old):
        each.mkdir()
    os.utime(old, (0, 0))
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == [fresh.name]


def test_names_up_to_the_limit_are_written_and_longer_ones_refused(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "x")
    with pytest.raises(StorageError, match=r"name is too long\. File systems take 255 bytes"):
        write_text(tmp_path / ("n" * 256), "x")
    assert os.listdir(tmp_path) == ["n" * 255]


def _write_torch(path: Path) -> None:
    with whole_file(path) as part:
        torch.save(torch.zeros(1 << 16), part)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_tensors(path, {"x": torch.zeros(1 << 16)}),
        _write_torch,
        lambda path: files.write_bytes(path, bytes(1 << 17)),
    ],
    ids=["safetensors", "torch", "python"],
)
def test_a_write_that_the_machine_refuses_is_one_sentence(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "big"
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StorageError, match=r"big: the file grows beyond what is allowed here"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not os.listdir(tmp_path)


def test_a_library_s_own_error_stays_where_the_machine_does_not_refuse(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no number"), whole_file(tmp_path / "a"):
        raise TypeError("no number")


def test_a_part_of_the_path_that_is_a_file_is_said(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(StorageError, match="file"):
        write_text(tmp_path / "file" / "a", "x")


def test_devices_and_folders_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, found in ((tmp_path / "pipe", "device or a pipe"), (tmp_path, "it is a folder")):
        with pytest.raises(FileError, match=found):
            write_text(path, "x")
    with pytest.raises(FileError, match="device"):
        write_text("/dev/null", "x")
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to("there/real.txt")
    write_text(link, "x")
    assert link.is_symlink()
    assert (tmp_path / "there" / "real.txt").read_text() == "x"


def test_file_names_that_are_no_text_are_written_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write_text(tmp_path / "names.txt", name)
    assert (tmp_path / "names.txt").read_text() == r"caf\udce9.wav"
    write_json(tmp_path / "names.json", {"name": name})
    assert read_json(tmp_path / "names.json") == {"name": name}


@pytest.mark.parametrize("fold", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_reading_is_bounded_and_the_bound_can_be_raised(
    tmp_path: Path, fold: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pdb.gz"
    path.write_bytes(fold(b"ATOM\n" * 1000))  # type: ignore[operator]
    assert read_bounded(path) == b"ATOM\n" * 1000
    assert len(read_bounded(path, limit=5000)) == 5000
    monkeypatch.setenv("RECTIFLOW_READ_LIMIT", "4K")
    with pytest.raises(FileError, match=r"more than 4 KiB.*RECTIFLOW_READ_LIMIT=4G"):
        read_bounded(path)
    monkeypatch.setenv("RECTIFLOW_READ_LIMIT", "5k")
    assert len(read_bounded(path)) == 5000
    monkeypatch.setenv("RECTIFLOW_READ_LIMIT", "much")
    with pytest.raises(ValueError, match="is no size, got 'much'"):
        read_bounded(path)


@pytest.mark.parametrize("fold", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_compression_is_said(tmp_path: Path, fold: object) -> None:
    path = tmp_path / "a.gz"
    whole = fold(os.urandom(4000))  # type: ignore[operator]
    for damaged in (whole[:-30], whole[:100] + b"damage" + whole[106:]):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="compression is damaged"):
            read_bounded(path)


def test_text_and_json_say_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(path) == {}
    for content, found in {
        b"\xe9": "byte 0 is not UTF-8",
        b"{": "it is no JSON",
        b"[1]": "it holds a list",
        b"[" * 100_000: "it is no JSON",
        b"": "it is no JSON",
    }.items():
        path.write_bytes(content)
        with pytest.raises(FileError, match=found):
            read_json(path)
    with pytest.raises(StorageError, match="there is no such file"):
        read_text(tmp_path / "absent")


def test_what_may_be_a_defect_is_not_said_to_be_the_machine_s() -> None:
    assert said(OSError("no number")) is None
