"""Files that unpack to much more than they hold, and very many files, do not fill the memory."""

from __future__ import annotations

import gc
import gzip
import subprocess
import sys
import tracemalloc

import pytest
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import MAX_BYTES, StructureError, read_structure, write_structure

MEBIBYTE = 2**20

MANY = """
import os, sys
from pathlib import Path
from rectiflow_protein.io import read_structure

files = sorted(Path(sys.argv[1]).iterdir())
count, told = int(sys.argv[2]), []
for i in range(count):
    read_structure(files[i % len(files)])
    if i in (count // 10, count // 2, count - 1):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        told.append(pages * os.sysconf("SC_PAGE_SIZE") // 2**20)
print(*told)
"""


@pytest.mark.parametrize("name", ["bomb.pdb.gz", "bomb.cif.gz", "bomb.bcif.gz"])
def test_a_bomb_of_a_gigabyte_is_refused_early(tmp_path, name):
    path = tmp_path / name
    member = gzip.compress(b"REMARK 999" + b" " * (32 * MEBIBYTE - 11) + b"\n", mtime=0)
    path.write_bytes(member * 32)
    assert path.stat().st_size < 2 * MEBIBYTE
    tracemalloc.start()
    try:
        with pytest.raises(StructureError, match=r"more than 128 MiB when unfolded.*max_bytes"):
            read_structure(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture
def short_files(tmp_path):
    folder = tmp_path / "files"
    for suffix in (".pdb", ".cif", ".bcif", ".pdb.gz"):
        write_structure(folder / f"x{suffix}", read_structure(PROTEIN_G))
    return folder


def test_reading_keeps_nothing(short_files):
    files = sorted(short_files.iterdir())
    held = []
    tracemalloc.start()
    try:
        for rounds in (1, 2):
            for path in rounds * files:
                read_structure(path)
            gc.collect()  # the decoder of BinaryCIF leaves cycles
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < MEBIBYTE / 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_memory_stays_flat_over_2000_files(short_files):
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(short_files), "2000"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    start, middle, end = map(int, done.stdout.split())
    assert max(middle, end) - start < 16
