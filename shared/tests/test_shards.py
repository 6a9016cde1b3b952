"""Shards: round trips, resuming, and what is said about damaged folders."""

import json
import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from rectiflow.storage.shards import MANIFEST, ShardError, ShardReader, ShardWriter
from torch.utils.data import DataLoader


def record(i):
    """A record like those of a protein chain of varying length."""
    generator = torch.Generator().manual_seed(i)
    n = 3 + i % 4
    return {
        "trans": torch.randn(n, 3, generator=generator),
        "rot": torch.randn(n, 4, generator=generator, dtype=torch.float64),
        "mask": torch.rand(n, generator=generator) > 0.5,
        "field": torch.randn(2, 5, generator=generator).to(torch.bfloat16),
        "index": torch.tensor(i),
        "score": torch.tensor(i / 3, dtype=torch.float64),
    }


def write(folder, count, shard_size=4, start=0, **metadata):
    with ShardWriter(folder, metadata, shard_size=shard_size) as writer:
        for i in range(start, count):
            writer.add(record(i), name=f"chain-{i}")
    return writer


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name], b[name])


def test_round_trip_over_several_shards(tmp_path):
    write(tmp_path, 11, source="test")
    reader = ShardReader(tmp_path, verify=True)
    assert len(reader) == 11
    assert len(list(tmp_path.glob("shard-*"))) == 3
    for i, found in enumerate(reader):
        assert_same(found, record(i))
    assert_same(reader[-1], record(10))
    assert reader.metadata == {"source": "test"}
    assert reader.names == [f"chain-{i}" for i in range(11)]
    assert reader.lengths("trans").tolist() == [3 + i % 4 for i in range(11)]
    assert reader.lengths("field").tolist() == [2] * 11
    assert reader.column("index").tolist() == list(range(11))


def test_arrays_may_be_empty(tmp_path):
    with ShardWriter(tmp_path) as writer:
        for n in (0, 2, 0):
            writer.add({"x": torch.ones(n, 3)})
    assert [tuple(found["x"].shape) for found in ShardReader(tmp_path)] == [(0, 3), (2, 3), (0, 3)]


def test_views_are_written_as_what_they_show(tmp_path):
    whole = torch.arange(20.0).reshape(4, 5)
    with ShardWriter(tmp_path) as writer:
        writer.add({"x": whole[:, ::2]})
    assert torch.equal(ShardReader(tmp_path)[0]["x"], whole[:, ::2])


def test_writer_continues_after_its_complete_shards(tmp_path):
    first = ShardWriter(tmp_path, {"a": 1}, shard_size=4)
    for i in range(10):
        first.add(record(i))
    first.progress["next"] = 10
    # As if killed here: the last two records and the progress are lost.
    second = ShardWriter(tmp_path, {"a": 1}, shard_size=4)
    assert second.written == 8
    assert second.progress == {}
    write(tmp_path, 11, start=second.written, a=1)
    reader = ShardReader(tmp_path, verify=True)
    assert reader.column("index").tolist() == list(range(11))


def test_exception_in_the_block_writes_nothing_more(tmp_path):
    def fail():
        with ShardWriter(tmp_path, shard_size=2) as writer:
            for i in range(3):
                writer.add(record(i))
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert len(ShardReader(tmp_path)) == 2


def test_killed_writer_leaves_whole_shards(tmp_path):
    script = (
        "import os, signal, sys, torch; from rectiflow.storage.shards import ShardWriter\n"
        "import rectiflow.storage.files as files\n"
        "writer = ShardWriter(sys.argv[1], shard_size=2)\n"
        "replace = os.replace\n"
        "def dying(a, b):\n"
        "    if str(b).endswith('00002.safetensors'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(a, b)\n"
        "files.os.replace = dying\n"
        "for i in range(9): writer.add({'x': torch.full((2,), float(i))})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert [found["x"][0].item() for found in ShardReader(tmp_path, verify=True)] == [0, 1, 2, 3]


def test_other_settings_are_refused(tmp_path):
    write(tmp_path, 2, steps=100)
    with pytest.raises(ShardError, match="steps is 100 there, got 50 now"):
        ShardWriter(tmp_path, {"steps": 50})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": torch.tensor(1.0)}, "score': 'float32"),
        ({"trans": torch.zeros(3, 2)}, r"trans': 'float32 \(n, 2\)'"),
        ({"extra": torch.zeros(1)}, "extra"),
        ({"x@offsets": torch.zeros(1)}, "no name ending in '@offsets'"),
    ],
)
def test_unlike_records_are_refused(tmp_path, change, message):
    writer = ShardWriter(tmp_path)
    writer.add(record(0))
    with pytest.raises(ValueError, match=message):
        writer.add({**record(1), **change})


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json; expected a folder"):
        ShardReader(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a manifest of shards"),
        ("[]", "is not a manifest of shards"),
        ('{"schema": 7}', "has schema version 7, expected 1"),
    ],
)
def test_bad_manifest(tmp_path, text, message):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ShardError, match=message) as caught:
        ShardReader(tmp_path)
    assert caught.value.path == tmp_path / MANIFEST


def test_truncated_shard(tmp_path):
    write(tmp_path, 3)
    shard = tmp_path / "shard-00000.safetensors"
    os.truncate(shard, shard.stat().st_size - 5)
    with pytest.raises(ShardError, match=r"shard-00000.* it is truncated"):
        ShardReader(tmp_path)


def test_absent_shard(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "shard-00000.safetensors").unlink()
    with pytest.raises(ShardError, match="listed in the manifest but absent"):
        ShardReader(tmp_path)


def test_changed_shard_is_found_when_verified(tmp_path):
    write(tmp_path, 3)
    shard = tmp_path / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    assert len(ShardReader(tmp_path)) == 3
    with pytest.raises(ShardError, match="does not have the SHA-256"):
        ShardReader(tmp_path, verify=True)


def test_bad_indices_and_names(tmp_path):
    write(tmp_path, 3)
    reader = ShardReader(tmp_path)
    for index in (3, -4):
        with pytest.raises(IndexError, match="the folder has 3"):
            reader[index]
    with pytest.raises(KeyError, match="no array 'index', got"):
        reader.lengths("index")
    with pytest.raises(KeyError, match="no number 'trans', got"):
        reader.column("trans")
    with pytest.raises(ValueError, match="shard_size must be at least 1"):
        ShardWriter(tmp_path, shard_size=0)


def test_reader_travels_to_worker_processes(tmp_path):
    write(tmp_path, 6)
    reader = ShardReader(tmp_path)
    reader[0]
    assert_same(pickle.loads(pickle.dumps(reader))[5], record(5))
    loader = DataLoader(reader, batch_size=None, num_workers=1)
    assert [found["index"].item() for found in loader] == list(range(6))


def test_manifest_tells_counts_and_hashes(tmp_path):
    write(tmp_path, 5, licence="CC0")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["schema"] == 1
    assert manifest["records"] == 5
    assert [shard["records"] for shard in manifest["shards"]] == [4, 1]
    assert manifest["arrays"]["rot"] == {"dtype": "float64", "ragged": True, "shape": [4]}
    assert all(len(shard["sha256"]) == 64 for shard in manifest["shards"])
