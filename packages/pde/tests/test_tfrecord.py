"""MeshGraphNets' TFRecord files, written here byte by byte, and what is wrong with some."""

import json
import struct

import numpy as np
import pytest
from rectiflow.storage.faults import FileError
from rectiflow_pde.io import read_trajectories
from rectiflow_pde.io.tfrecord import crc32c, records

NAMES = ("mesh_pos", "cells", "node_type", "velocity", "pressure")


def check(data):
    """Return the masked checksum bit by bit, as its definition has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number, data):
    size, length = b"", len(data)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def record(arrays):
    entries = b"".join(
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value.tobytes()))))
        for name, value in arrays.items()
    )
    data = field(1, entries)
    size = struct.pack("<Q", len(data))
    return size + struct.pack("<I", check(size)) + data + struct.pack("<I", check(data))


@pytest.fixture
def written(arrays, tmp_path):
    """Write a short flow twice, the second time with double velocity."""
    kept = {name: np.asarray(arrays[name]) for name in NAMES}
    kept = {k: v.astype("<i4" if v.dtype.kind == "i" else "<f4") for k, v in kept.items()}
    kept = {k: v[:2] if k in ("velocity", "pressure") else v[None] for k, v in kept.items()}
    kept = {k: v if v.ndim == 3 else v[..., None] for k, v in kept.items()}
    told = {
        name: {"dtype": str(value.dtype), "shape": [len(value), -1, value.shape[-1]]}
        for name, value in kept.items()
    }
    (tmp_path / "meta.json").write_text(json.dumps({"dt": 0.05, "features": told}))
    path = tmp_path / "valid.tfrecord"
    path.write_bytes(record(kept) + record(kept | {"velocity": 2 * kept["velocity"]}))
    return path


def test_trajectories_are_read_with_their_times(written, arrays):
    first, second = read_trajectories(written)
    np.testing.assert_allclose(first.velocity, arrays["velocity"][:2], rtol=1e-6)
    np.testing.assert_allclose(second.velocity, 2 * first.velocity)
    np.testing.assert_allclose(first.pressure, arrays["pressure"][:2], rtol=1e-6)
    assert first.times.tolist() == [0.0, 0.05]
    assert np.array_equal(first.mesh.cells[0][1], arrays["cells"])
    assert (first.name, second.name) == ("0", "1")


def test_the_checksum_of_long_records_is_that_of_its_stretches():
    data = np.random.default_rng(0).bytes(70_001)
    wanted = check(data)
    crc = crc32c(data)
    assert ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF == wanted
    assert crc32c(b"") == 0


@pytest.mark.parametrize("broken", ["cut", "flipped", "no meta", "other shape"])
def test_what_is_wrong_is_told(written, broken):
    data, meta = written.read_bytes(), written.parent / "meta.json"
    if broken == "cut":
        written.write_bytes(data[:-9])
    elif broken == "flipped":
        written.write_bytes(data[:500] + bytes([data[500] ^ 1]) + data[501:])
    elif broken == "no meta":
        meta.unlink()
    else:
        told = json.loads(meta.read_text())
        told["features"]["velocity"]["shape"] = [2, -1, 4099]
        meta.write_text(json.dumps(told))
    words = {"no meta": "without the meta.json", "other shape": "not the arrays"}
    with pytest.raises(FileError, match=words.get(broken, "checksum")):
        list(read_trajectories(written))
    if broken == "cut":
        assert sum(1 for _ in [next(records(written))]) == 1  # what is whole was read before
