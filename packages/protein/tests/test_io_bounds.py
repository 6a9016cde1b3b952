"""Files that unpack to much more than they hold, and very many files, do not fill the memory."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys

import pytest

BOMB = """
import resource, sys
import rectiflow_protein.io as io
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    io.read_structure(sys.argv[1])
except io.StructureError as error:
    assert "more than 134,217,728 bytes unpacked" in str(error), error
    assert "max_bytes" in str(error) and "--max-megabytes" in str(error)
else:
    raise SystemExit("it was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

MANY = """
import os, sys
from pathlib import Path
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure, write_structure

folder = Path(sys.argv[1])
short = read_structure(PROTEIN_G)
write_structure(folder / "x.pdb", short)
write_structure(folder / "x.cif", short)

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

count, told = int(sys.argv[2]), []
for i in range(count):
    read_structure(folder / ("x.pdb", "x.cif")[i % 2])
    if i in (count // 10, count // 2, count - 1):
        told.append(held() // 2**20)
print(*told)
"""


def run(script, *words):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("name", ["bomb.pdb.gz", "bomb.cif.gz", "bomb.bcif.gz"])
def test_a_bomb_of_a_gigabyte_is_refused_early(tmp_path, name):
    path = tmp_path / name
    block = b"REMARK 999" + b" " * (2**20 - 11) + b"\n"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(1024):
            file.write(block)
    assert os.path.getsize(path) < 8 * 2**20
    [kilobytes] = run(BOMB, path)
    assert kilobytes < 320 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_memory_stays_flat_over_many_files(tmp_path, count):
    start, middle, end = run(MANY, tmp_path, count)
    assert max(middle, end) - start < 16
