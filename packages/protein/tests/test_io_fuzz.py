"""Damaged structure files raise StructureError and nothing else."""

from __future__ import annotations

import gzip
import random
from collections import Counter

import pytest
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import StructureError, read_structure, write_structure

TOKENS = [b"nan", b"inf", b"1e999", b"-99999999999999999999", b"loop_", b"data_x\n", b"TER\n"]
TOKENS += [b"_atom_site.id", b"MODEL\n", b"END\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\n;\n"]


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat, shuffle and cut bytes and lines."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        start = rng.randrange(len(data))
        end = min(len(data), start + rng.randrange(1, 200))
        kind = rng.randrange(8)
        if kind == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[start:end]
        elif kind == 2:
            data[start:start] = data[start:end]
        elif kind == 3:
            del data[start:]
        elif kind == 4:
            data[start:end] = rng.randbytes(end - start)
        elif kind == 5:
            data[start:start] = bytes([rng.choice(b" \n\r\t;'\"#_0.-?*")]) * rng.randrange(1, 5)
        elif kind == 6:
            lines = bytes(data).split(b"\n")
            lines.insert(rng.randrange(len(lines)), rng.choice(lines))
            data = bytearray(b"\n".join(lines))
        else:
            data[start:end] = rng.choice(TOKENS)
    return bytes(data)


@pytest.mark.parametrize(
    "count", [pytest.param(400, id="400"), pytest.param(10_000, id="10000", marks=pytest.mark.slow)]
)
def test_mutations_are_read_or_refused(tmp_path, count):
    short = read_structure(PROTEIN_G)[:16]
    seeds = [
        (name, write_structure(tmp_path / name, models).read_bytes())
        for name, models in {
            **{f"a{suffix}": short for suffix in (".pdb", ".cif", ".bcif", ".pdb.gz", ".bcif.gz")},
            **{f"b{suffix}": [short, short] for suffix in (".pdb", ".cif", ".bcif")},
        }.items()
    ]
    rng = random.Random(count)
    found: Counter[str] = Counter()
    for _ in range(count):
        name, content = rng.choice(seeds)
        inside = name.endswith(".gz") and rng.random() < 0.5
        damaged = mutate(gzip.decompress(content) if inside else content, rng)
        path = tmp_path / name
        path.write_bytes(gzip.compress(damaged, mtime=0) if inside else damaged)
        message = None
        try:
            assert len(read_structure(path))
        except StructureError as error:
            message = str(error)
        assert message is None or (str(path) in message and "\n" not in message)
        found["read" if message is None else "refused"] += 1
    assert min(found["read"], found["refused"]) > count / 20  # both sides are tried
