"""Documents that grow by lines, and columns that are mapped."""

from __future__ import annotations

import os

import numpy as np
import pytest
from rectiflow.results import ResultFolder, read_listing
from rectiflow.storage.columns import Texts
from rectiflow.storage.faults import FileError
from rectiflow.storage.journal import Journal
from rectiflow.storage.reading import read_json
from rectiflow.storage.shards import MANIFEST, MOST_OPEN, ShardReader, ShardWriter
from rectiflow.storage.table import read_table, table_of, write_rows

COLUMNS = {"name": str, "split": str, "size": int, "score": float}


def rows_of(n: int) -> list[dict]:
    return [
        {"name": f"é{i:04d}", "split": ("train", "valid")[i % 5 == 0], "size": i, "score": i / 3}
        for i in range(n)
    ]


def write_shards(folder, n: int, start: int = 0) -> ShardWriter:
    import torch

    writer = ShardWriter(folder, shard_size=1)
    for i in range(start, n):
        writer.add({"x": torch.tensor([float(i)]), "n": torch.tensor(i)}, name=f"item-{i}")
        writer.progress["next"] = i + 1
    return writer


def test_entries_survive_a_line_cut_short(tmp_path):
    journal = Journal(tmp_path / "result.json")
    assert journal.entries() == []
    journal.append({"a": 1})
    with journal.path.open("ab") as file:
        file.write(b'{"b": ' + b"x" * 9000)  # a kill in the middle
    assert journal.entries() == [{"a": 1}]
    journal.append({"c": 3})
    assert journal.entries() == [{"a": 1}, {"c": 3}]
    journal.path.write_text("[1]\n")
    with pytest.raises(FileError, match="line 1 is no entry"):
        journal.entries()
    journal.fold({"a": 1, "c": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_bytes_of_an_index_grow_with_the_shards(tmp_path, monkeypatch):
    """The manifest is written twice, however many shards there are."""
    from rectiflow.storage import journal

    written: list[int] = []
    original = journal.write_json
    monkeypatch.setattr(
        journal, "write_json", lambda *a, **k: written.append(1) or original(*a, **k)
    )
    with write_shards(tmp_path, 40):
        pass
    assert len(written) == 2
    assert len(read_json(tmp_path / MANIFEST)["shards"]) == 40
    assert "names" not in (tmp_path / MANIFEST).read_text()
    reader = ShardReader(tmp_path, verify=True)
    assert reader.names == [f"item-{i}" for i in range(40)]
    assert reader.progress == {"next": 40}


def test_a_killed_writer_is_read_and_gone_on_with(tmp_path):
    writer = write_shards(tmp_path, 5)  # no end of the block: as if it were killed
    assert read_json(tmp_path / MANIFEST)["records"] == 0
    assert len(ShardReader(tmp_path)) == writer.written == 5
    with write_shards(tmp_path, 9, start=5):
        pass
    assert ShardReader(tmp_path).column("n").tolist() == list(range(9))
    assert not list(tmp_path.glob(".*.jsonl"))


def test_a_journal_that_outlived_its_fold_counts_once(tmp_path):
    writer = write_shards(tmp_path, 4)
    lines = writer._journal.path.read_bytes()
    with writer:
        pass
    writer._journal.path.write_bytes(lines)
    assert ShardReader(tmp_path).column("n").tolist() == [0, 1, 2, 3]


def test_readers_keep_few_shards_open(tmp_path):
    with write_shards(tmp_path, 3 * MOST_OPEN):
        pass
    first, second = ShardReader(tmp_path), ShardReader(tmp_path)
    kept = [r[i] for r in (first, second) for i in range(len(r))]
    del kept
    with open("/proc/self/maps", encoding="utf-8") as maps:
        mapped = {line.split()[-1] for line in maps if str(tmp_path) in line}
    assert 0 < len(mapped) <= MOST_OPEN
    assert first.column("n").tolist() == list(range(3 * MOST_OPEN))


def test_columns_are_mapped_and_equal_the_text(tmp_path):
    path = tmp_path / "metadata.csv"
    write_rows(path, COLUMNS, rows_of(50))
    mapped = read_table(path, COLUMNS)
    (tmp_path / "metadata.columns").unlink()
    read = read_table(path, COLUMNS)  # as in folders prepared before
    for name in COLUMNS:
        assert np.asarray(mapped[name]).tolist() == np.asarray(read[name]).tolist()
    assert mapped["name"][3] == "é0003"
    assert (mapped["split"] == "valid").sum() == 10
    assert not (mapped["split"] == "test").any()
    assert mapped["name"][np.array([4, 1])].tolist() == ["é0004", "é0001"]


def test_columns_older_than_their_text_are_passed_over(tmp_path):
    path = tmp_path / "metadata.csv"
    write_rows(path, COLUMNS, rows_of(3))
    text = path.read_text().replace("valid", "train")  # of the same size
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    assert set(read_table(path, COLUMNS)["split"].tolist()) == {"train"}
    assert set(read_table(path, {"name": str, "size": str})["size"].tolist()) == {"0", "1", "2"}


def test_texts_are_a_column():
    column = Texts.of(["b", "a", "", "b"])
    assert len(column) == 4
    assert column[-1] == "b"
    assert list(column[1:]) == ["a", "", "b"]
    assert (column != "b").tolist() == [False, True, True, False]
    assert np.unique(np.asarray(column)).tolist() == ["", "a", "b"]
    empty = table_of([], {"name": str, "size": int})
    assert (len(empty["name"]), empty["size"].dtype) == (0, np.int64)
    assert (empty["name"] == "x").tolist() == []


def test_results_are_listed_by_lines_until_the_end(tmp_path):
    folder = ResultFolder(tmp_path, {"seed": 1})
    sizes = []
    with folder.writing(["a", "b", "c"]) as staged:
        for name in "ab":  # the first begins the document
            (staged / f"{name}.txt").write_text(name)
            folder.add([{"name": name, "files": [f"{name}.txt"]}], staged, 1.0)
            sizes.append(folder.path.stat().st_size)
        folder.refuse("c", "too long")
        assert sizes[0] == sizes[1]  # the document is not written again for each
        assert [row["name"] for row in read_json(folder.path)["samples"]] == ["a"]
        told = read_listing(folder.path)
        assert [row["name"] for row in told["samples"]] == ["a", "b"]
        assert (told["failed"], told["seconds"]) == ({"c": "too long"}, 2.0)
        assert ResultFolder(tmp_path, {"seed": 1}).holds("b")
    told = read_json(folder.path)
    assert [row["name"] for row in told["samples"]] == ["a", "b"]
    assert told["failed"] == {"c": "too long"}
    assert not list(tmp_path.glob(".*.jsonl"))
