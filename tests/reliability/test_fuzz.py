"""Damaged files: whatever is read, the answer is a value or one of the documented errors."""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rectiflow.rectify import Pair, PairStore, generate_pairs
from rectiflow.storage.archives import read_inert
from rectiflow.storage.faults import CheckpointError, FileError, StorageError
from rectiflow.storage.pretrained import Pretrained, read_card
from rectiflow.storage.reading import read_json, read_rows
from rectiflow.storage.shards import ShardError, ShardReader, ShardWriter
from rectiflow.storage.tensor_files import load_tensors
from rectiflow.training import read_checkpoint, read_metrics
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from trials import damaged

CORE = (CheckpointError, FileError, StorageError, ShardError)


class Small(Pretrained, nn.Module):
    """A network of which every setting matters to its tensors."""

    def __init__(self, width: int = 3, layers: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])


def rounds(request: pytest.FixtureRequest, few: int = 200) -> int:
    """Return how many damaged copies a test tries."""
    return 10_000 if request.config.getoption("--slow") else few


def try_all(
    path: Path,
    read: Callable[[], Any],
    documented: tuple[type[Exception], ...],
    count: int,
) -> Counter[str]:
    """Put damaged copies in the place of a file, read each, and count the outcomes."""
    whole = path.read_bytes()
    found: Counter[str] = Counter()
    for number, content in enumerate(damaged(whole, count, zlib.crc32(path.name.encode()))):
        path.write_bytes(content)
        try:
            read()
            found["read"] += 1
        except documented as error:
            found[type(error).__name__] += 1
        except Exception as error:
            raise AssertionError(f"copy {number} of {path.name} raised {error!r}") from error
    path.write_bytes(whole)
    read()
    assert sum(found.values()) == count
    assert found.total() > found["read"], "no damage was noticed"
    return found


def make_shards(folder: Path) -> None:
    with ShardWriter(folder, {"kind": "points"}, shard_size=4) as writer:
        for n in range(1, 9):
            writer.add({"x": torch.ones(n, 2), "n": torch.tensor(n)}, f"record {n}")


def read_shards(folder: Path) -> None:
    reader = ShardReader(folder)
    reader.column("n")
    reader.lengths("x")
    assert len(reader.names) == len(reader)
    for record in reader:
        assert set(record) <= set(reader.arrays)


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.safetensors"])
def test_stores(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    make_shards(tmp_path)

    # A KeyError tells of an array that the manifest no longer names.
    documented = (*CORE, FileNotFoundError, KeyError)
    try_all(tmp_path / name, lambda: read_shards(tmp_path), documented, rounds(request))


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.safetensors"])
def test_pairs(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    def sample(indices: list[int]) -> list[Pair]:
        return [Pair(i, torch.zeros(2), torch.ones(2)) for i in indices]

    generate_pairs(sample, tmp_path, num=6, batch=3, seed=0, progress=False)
    path = tmp_path / "part-0000-of-0001" / name

    def read() -> None:
        store = PairStore(tmp_path)
        for position in range(len(store)):
            store[position]
        assert store.is_complete in (True, False)
        assert all(isinstance(count, int) for count in store.rejected.values())

    try_all(path, read, (*CORE, FileNotFoundError), rounds(request))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_weights_folders(tmp_path: Path, name: str, request: pytest.FixtureRequest) -> None:
    Small().save_pretrained(tmp_path, licence="none")

    def read() -> None:
        Small.from_pretrained(tmp_path)
        read_card(tmp_path / "model.safetensors")

    try_all(tmp_path / name, read, (*CORE, FileNotFoundError), rounds(request))


@pytest.mark.parametrize("read", [load_tensors, read_inert, read_checkpoint])
@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints(
    tmp_path: Path, read: Callable[[Path], Any], legacy: bool, request: pytest.FixtureRequest
) -> None:
    if legacy and read is read_inert:
        pytest.skip("reads archives alone")
    path = tmp_path / "last.ckpt"
    content = {"global_step": 3, "state_dict": {"a": torch.ones(8), "b": torch.zeros(2, 3)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    try_all(path, lambda: read(path), (*CORE, FileNotFoundError), rounds(request, 100))


def test_documents(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"files": 3, "splits": {"train": 2}, "names": ["a", "é"]}))
    try_all(path, lambda: read_json(path), CORE, rounds(request))


def backbone() -> Any:
    """Return an ideal helix of 24 residues."""
    from rectiflow_protein.io import Backbone

    turn = np.deg2rad(100) * np.arange(24)[:, None]
    place = {"N": (1.5, -0.9, -28), "CA": (2.3, 0.0, 0), "C": (1.7, 1.2, 26), "O": (2.0, 2.2, 22)}
    atoms = [
        np.concatenate(
            [
                radius * np.cos(turn + np.deg2rad(angle)),
                radius * np.sin(turn + np.deg2rad(angle)),
                1.5 * np.arange(24)[:, None] + rise,
            ],
            axis=1,
        )
        for radius, rise, angle in place.values()
    ]
    return Backbone(
        coords=np.stack(atoms, axis=1).astype(np.float32),
        aatype=np.arange(24, dtype=np.int8) % 20,
        residue_index=np.arange(1, 25, dtype=np.int32),
        insertion_codes=np.array([""] * 24, dtype="<U4"),
        chain_ids=np.array(["A"] * 24),
        name="helix",
        resolution=None,
        dropped=(),
    )


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".bcif", ".pdb.gz"])
def test_structures(tmp_path: Path, suffix: str, request: pytest.FixtureRequest) -> None:
    from rectiflow_protein.io import StructureError, read_structure, write_structure

    path = tmp_path / f"helix{suffix}"
    write_structure(path, backbone())
    try_all(path, lambda: read_structure(path), (StructureError, *CORE), rounds(request, 75))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_sounds(tmp_path: Path, suffix: str, request: pytest.FixtureRequest) -> None:
    from rectiflow_audio.io import AudioFileError, read_audio, write_audio

    path = tmp_path / f"tone{suffix}"
    time = np.arange(8000) / 16_000
    write_audio(path, 0.3 * np.sin(2 * np.pi * 440 * time).astype(np.float32), 16_000)
    try_all(path, lambda: read_audio(path), (AudioFileError, *CORE), rounds(request, 75))


def test_tables(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "captions.csv"
    rows = [f'sound {i}.wav,"a dog barks, number {i}",dog' for i in range(20)]
    path.write_text("\n".join(["file,caption,label", *rows]) + "\n")
    try_all(path, lambda: read_rows(path, ("file", "caption")), CORE, rounds(request))


def test_metrics(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n" + "".join(f"{i},{1 / i}\n" for i in range(1, 30)))

    def read() -> None:
        assert all(int(row["step"]) >= 0 for row in read_metrics(path))

    try_all(path, read, CORE, rounds(request))
