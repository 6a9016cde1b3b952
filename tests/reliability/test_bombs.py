"""Small files that unfold to large ones: memory and time stay bounded."""

from __future__ import annotations

import gzip
import os
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from rectiflow.storage.archives import read_inert
from rectiflow.storage.faults import CheckpointError, FileError
from rectiflow.storage.reading import read_bounded
from rectiflow.storage.tensor_files import load_tensors


@pytest.fixture
def size(request: pytest.FixtureRequest) -> int:
    """Return how many bytes a bomb unfolds to."""
    return 1 << 30 if request.config.getoption("--slow") else 64 << 20


def test_compressed_text(tmp_path: Path, size: int) -> None:
    path = tmp_path / "large.pdb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(size >> 20):
            file.write(b" " * (1 << 20))
    bound = 4 << 20
    tracemalloc.start()
    with pytest.raises(FileError, match=r"more than 4 MiB when unfolded"):
        read_bounded(path, limit=bound)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * bound


@pytest.mark.parametrize("read", [load_tensors, read_inert])
def test_compressed_archive(tmp_path: Path, size: int, read: object) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("archive/data.pkl", "w", force_zip64=True) as member:
            for _ in range(size >> 20):
                member.write(bytes(1 << 20))
        archive.writestr("archive/version", "3")
    started = time.process_time()
    with pytest.raises(CheckpointError, match="compressed member"):
        read(path)  # type: ignore[operator]
    assert time.process_time() - started < 1


def test_sparse_file(tmp_path: Path) -> None:
    """A file of 1 TB that takes no room on the disk."""
    path = tmp_path / "large.pdb"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(FileError, match="more than 1 MiB"):
        read_bounded(path, limit=1 << 20)


def test_tensors_wider_than_their_file(tmp_path: Path) -> None:
    path = tmp_path / "wide.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1).expand(1 << 45)}}, path)
    assert path.stat().st_size < 4096
    with pytest.raises(CheckpointError, match="the file holds fewer"):
        load_tensors(path)
