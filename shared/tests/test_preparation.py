"""Preparations: judged once whatever happens, in any number of processes, split by name."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rectiflow.execution import HERE, LostError, Processes
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import REPORT, Judged, Kept, Preparation, extract, read_report
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.reading import digest_of
from rectiflow.storage.shards import ShardError, ShardReader, ShardWriter
from rectiflow.storage.splits import check_fractions, number_repeated_names, split_of
from rectiflow.storage.table import read_table, write_rows

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


@pytest.mark.parametrize("executor", [HERE, Processes(2)])
def test_rows_records_and_refusals_in_order(tmp_path, executor, monkeypatch):
    # Workers import what they call, and this file is no module on their path.
    (tmp_path / "judging.py").write_text(HEAD + inspect.getsource(judge))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    sys.modules.pop("judging", None)
    judging = importlib.import_module("judging")
    told = partial(judging.judge, seen=tmp_path / "seen")
    found = extract(NUMBERS, told, tmp_path / "part", executor=executor)
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


def end_at_seven(number: int, folder: Path) -> Judged:
    """Judge, but end the process at numbers that end in 7, as a library may that crashes."""
    if number % 10 == 7:
        os._exit(1)
    return judge(number, folder / "seen")


def test_an_input_that_kills_its_worker_is_refused(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text(
        "import os\n" + HEAD + inspect.getsource(judge) + inspect.getsource(end_at_seven)
    )
    monkeypatch.syspath_prepend(tmp_path)
    helper = importlib.import_module("helper")
    seen: list[int] = []
    lost = partial(dict, reason="killed")
    told = {"executor": Processes(2), "progress": lambda done, _: seen.append(done)}
    judged = partial(helper.end_at_seven, folder=tmp_path)
    found = extract(NUMBERS[:40], judged, tmp_path / "out", lost=lambda n: lost(number=n), **told)
    killed = [row["number"] for row in found.rejected if row["reason"] == "killed"]
    assert killed == [7, 17, 27, 37]
    assert [row["name"] for row in found.rows] == [
        n for n in expected() if int(n) < 40 and n[-1] != "7"
    ]
    assert seen[-1] == 40
    with pytest.raises(LostError):
        extract(NUMBERS[:40], judged, tmp_path / "other", executor=Processes(2))


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


COLUMNS = {"name": str, "size": int, "score": float, "split": str}


class Numbers(Prepared):
    columns = COLUMNS
    unit = "number"


def described(number: int) -> Judged:
    """Accept odd numbers."""
    if number % 2 == 0:
        return Judged(refused=[{"number": number, "reason": f"{number} is even"}])
    row = {"name": f"n{number}", "size": number, "score": None if number == 1 else number / 3}
    return Judged([({"value": torch.full((number,), 1.0)}, row)])


def preparation(settings: dict | None = None, finish=None) -> Preparation[int]:
    def split(found):
        for row in found.rows:
            row["split"] = "train" if row["size"] < 30 else "valid"
        kept = [i for i, row in enumerate(found.rows) if row["size"] != 33]
        return Kept(kept, {"sum": sum(found.rows[i]["size"] for i in kept)})

    told = settings or {"kind": "numbers"}
    return Preparation("number", COLUMNS, ("number", "reason"), described, finish or split, told)


def test_a_preparation_leaves_records_a_table_and_the_reasons(tmp_path):
    report = preparation().run(range(36), tmp_path)
    assert (report.inputs, report.accepted, report.rejected) == (36, 17, 18)
    assert report.splits == {"train": 15, "valid": 2, "test": 0}
    assert report.counts == {"sum": sum(range(1, 36, 2)) - 33}
    assert "accepted 17 numbers of 36 inputs (291 sum, 15 train, 2 valid" in str(report)
    prepared = Numbers(tmp_path, verify=True)
    assert prepared.table["size"].tolist() == [n for n in range(1, 36, 2) if n != 33]
    assert prepared.table["score"].dtype == float
    assert math.isnan(prepared.table["score"][0])
    assert prepared.rows("valid").tolist() == [15, 16]
    assert len(prepared.records[16]["value"]) == 35

    class Small:
        def keep(self, table):
            return table["size"] < 4

    assert prepared.rows("train", [Small()]).tolist() == [0, 1]
    with pytest.raises(ValueError, match="has no number in the split 'test', got 17 numbers"):
        prepared.some_rows("test")
    with pytest.raises(ValueError, match="unknown split 'val'; known: train, valid, test"):
        prepared.rows("val")
    assert not (tmp_path / ".partial").exists()


def test_a_preparation_goes_on_and_is_not_repeated(tmp_path):
    def stop(found):
        raise KilledError

    with pytest.raises(KilledError):
        preparation(finish=stop).run(range(36), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no metadata\.csv; expected a folder"):
        Numbers(tmp_path)
    progress = []
    done = preparation().run(range(36), tmp_path, progress=lambda *each: progress.append(each))
    assert progress == []
    (tmp_path / "moved").mkdir()
    for path in list(tmp_path.glob("*.*")):
        path.rename(tmp_path / "moved" / path.name)
    again = preparation(finish=stop).run(range(36), tmp_path / "moved")
    assert again == replace(done, folder=tmp_path / "moved")
    with pytest.raises(ShardError, match="kind is 'numbers' there, got 'other' now"):
        preparation({"kind": "other"}).run(range(36), tmp_path / "moved")
    (tmp_path / "moved" / REPORT).write_text('{"clips": 3}')
    with pytest.raises(ShardError, match="is of another version"):
        read_report(tmp_path / "moved")


def test_the_input_folder_is_only_read(tmp_path):
    for out in (tmp_path, tmp_path / "out"):
        with pytest.raises(ValueError, match="out must not lie inside the input folder"):
            places(tmp_path, out, "numbers")
    other = tmp_path.with_name("other")
    assert places(str(tmp_path), str(other), "numbers") == (tmp_path, other)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*; expected numbers"):
        places(other, tmp_path, "numbers")
    (file := tmp_path / "file").write_text("")
    assert places(file, tmp_path, "numbers", or_file=True) == (file, tmp_path)


def test_a_table_is_written_whole(tmp_path):
    write_rows(tmp_path / "a.csv", ("x", "y"), [{"x": 1 / 3, "y": None}, {"x": 2, "y": "a,b"}])
    assert (tmp_path / "a.csv").read_text() == 'x,y\n0.333333,\n2,"a,b"\n'
    with pytest.raises(ValueError, match="z"):
        write_rows(tmp_path / "a.csv", ("x", "y"), [{"z": 1}])
    assert (tmp_path / "a.csv").read_text().startswith("x,y\n0.333333")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n1\n", "lacks the columns y, got"),
        ("x,y\n1\n", "line 2 has 1 cells"),
        ("x,y\n1,2,3\n", "line 2 has 3 cells"),
        ("x,y\n1,2\n\na,2\n", "line 4 is damaged .*invalid literal"),
    ],
)
def test_damaged_tables_say_where(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / "a.csv", {"x": int, "y": float})


def test_an_empty_table_keeps_its_types(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n")
    table = read_table(tmp_path / "a.csv", {"x": int, "y": float})
    assert (table["x"].dtype.kind, table["y"].dtype.kind) == ("i", "f")


def test_a_digest_tells_settings_apart():
    assert digest_of(["a"]) == digest_of(["a"]) != digest_of(["b"])
