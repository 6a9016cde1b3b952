"""Preparations: judged once whatever happens, in any number of processes, split by name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from rectiflow.storage.preparation import (
    REPORT,
    Judged,
    check_fractions,
    digest_of,
    extract,
    number_repeated_names,
    read_report,
    split_of,
    write_report,
    write_rows,
)
from rectiflow.storage.shards import ShardReader, ShardWriter

NUMBERS = range(70)  # three chunks


def judge(number: int, seen: Path) -> Judged:
    """Accept the number once, multiples of three twice, and refuse those of five."""
    with seen.open("a") as file:
        file.write(f"{number}\n")
    if number % 5 == 0:
        return Judged(refused=[{"number": number, "reason": "a multiple of five"}])
    record = {"value": torch.full((number,), float(number))}
    return Judged(accepted=[(record, {"name": str(number)})] * (2 if number % 3 == 0 else 1))


def expected() -> list[str]:
    return [str(n) for n in NUMBERS if n % 5 for _ in range(2 if n % 3 == 0 else 1)]


def seen_by(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()]


HEAD = """
from pathlib import Path
import torch
from rectiflow.storage.preparation import Judged
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_records_and_refusals_in_order(tmp_path, workers, monkeypatch):
    # Workers import what they call, and this file is no module on their path.
    (tmp_path / "judging.py").write_text(HEAD + inspect.getsource(judge))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    sys.modules.pop("judging", None)
    judging = importlib.import_module("judging")
    told = partial(judging.judge, seen=tmp_path / "seen")
    found = extract(NUMBERS, told, tmp_path / "part", workers=workers)
    sys.modules.pop("judging")
    assert [row["name"] for row in found.rows] == expected()
    assert [refusal["number"] for refusal in found.rejected] == list(range(0, 70, 5))
    for index in (0, 1, len(found.rows) - 1):
        number = int(found.rows[index]["name"])
        assert found.record(index)["value"].tolist() == [number] * number
    assert sorted(seen_by(tmp_path / "seen")) == list(NUMBERS)


class KilledError(Exception):
    pass


def test_a_killed_extraction_judges_only_what_is_left(tmp_path):
    def kill(done: int, total: int) -> None:
        raise KilledError

    told = partial(judge, seen=tmp_path / "seen")
    with pytest.raises(KilledError):
        extract(NUMBERS, told, tmp_path / "part", progress=kill)
    assert seen_by(tmp_path / "seen") == list(range(32))
    progress = []
    found = extract(NUMBERS, told, tmp_path / "part", progress=lambda *each: progress.append(each))
    assert progress == [(64, 70), (70, 70)]
    assert seen_by(tmp_path / "seen") == list(NUMBERS)
    assert [row["name"] for row in found.rows] == expected()


def test_a_copy_goes_on_after_what_the_writer_has(tmp_path):
    found = extract(NUMBERS, partial(judge, seen=tmp_path / "seen"), tmp_path / "part")
    kept = list(range(0, len(found.rows), 2))
    with ShardWriter(tmp_path / "out", {}, shard_size=4) as writer:
        found.copy_to(writer, kept[:4])
    with ShardWriter(tmp_path / "out", {}, shard_size=4) as writer:
        assert writer.written == 4
        found.copy_to(writer, kept)
    assert ShardReader(tmp_path / "out").names == [found.rows[i]["name"] for i in kept]


def test_threads_of_the_caller_stay_as_they_are(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        extract([1], partial(judge, seen=tmp_path / "seen"), tmp_path / "part")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_repeated_names_are_numbered():
    rows = [{"name": name} for name in ("dog", "cat", "dog", "dog")]
    number_repeated_names(rows)
    assert [row["name"] for row in rows] == ["dog", "cat", "dog-2", "dog-3"]


def test_a_split_depends_on_the_name_alone():
    shares = {"train": 0.8, "valid": 0.1, "test": 0.1}
    found = {name: split_of(name, shares) for name in map(str, range(2000))}
    counts = Counter(found.values())
    assert {split: abs(counts[split] / 2000 - share) < 0.03 for split, share in shares.items()} == {
        "train": True,
        "valid": True,
        "test": True,
    }
    assert {split_of("a", shares, seed=seed) for seed in range(100)} == set(shares)
    assert split_of("a", {"valid": 1.0}) == "valid"


@pytest.mark.parametrize("shares", [{"train": 0.5}, {"train": 2.0, "test": -1.0}, {"val": 1.0}])
def test_shares_that_do_not_add_up_are_refused(shares):
    with pytest.raises(ValueError, match="must share 1 among train, valid, test, got"):
        check_fractions(shares)


def test_a_table_is_written_whole(tmp_path):
    write_rows(tmp_path / "a.csv", ("x", "y"), [{"x": 1 / 3, "y": None}, {"x": 2, "y": "a,b"}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n0.333333,\n2,"a,b"\n'
    with pytest.raises(ValueError, match="z"):
        write_rows(tmp_path / "a.csv", ("x", "y"), [{"z": 1}])
    assert (tmp_path / "a.csv").read_text().startswith("x,y\n0.333333")


@dataclass(frozen=True)
class Report:
    folder: Path
    clips: int


def test_a_report_moves_with_its_folder(tmp_path):
    (tmp_path / "a").mkdir()
    assert read_report(Report, tmp_path / "a") is None
    write_report(Report(tmp_path / "a", 3))
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_report(Report, tmp_path / "b") == Report(tmp_path / "b", 3)
    assert [path.name for path in (tmp_path / "b").iterdir()] == [REPORT]


def test_a_digest_tells_settings_apart():
    assert digest_of(["a"]) == digest_of(["a"]) != digest_of(["b"])
