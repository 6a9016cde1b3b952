"""Gmsh's MSH 4.1, text and binary: nodes, cells and the names of their groups.

Older files are read by meshio, which refuses 4.1 files where only some entities have groups.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.storage.faults import FileError

from rectiflow_pde.io.cells import RawMesh

_KINDS = {
    **{1: ("line", 2), 2: ("triangle", 3), 3: ("quad", 4), 4: ("tetra", 4), 5: ("hexahedron", 8)},
    **{8: ("line3", 3), 9: ("triangle6", 6), 10: ("quad9", 9), 15: ("vertex", 1)},
    **{16: ("quad8", 8), 6: ("wedge", 6), 7: ("pyramid", 5), 11: ("tetra10", 10)},
}


def is_msh4(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of MSH 4.1."""
    return head.lstrip().startswith(b"$MeshFormat") and b"4.1" in head[:40]


def read_msh4(path: Path, content: bytes) -> RawMesh:
    """Read the content of an MSH 4.1 file.

    Raises
    ------
    FileError
        If it ends early or is damaged.
    """
    try:
        return _read(path, content)
    except FileError:
        raise
    except (ValueError, IndexError, KeyError) as error:
        raise FileError(
            path, f"it is cut short or damaged ({error})", "a whole MSH file", "Write it again."
        ) from error


class _Section:
    """Numbers of one section, one after the other."""

    def __init__(self, content: bytes, name: str, is_binary: bool) -> None:
        start = content.find(f"${name}".encode())
        stop = content.find(f"$End{name}".encode())
        if start < 0 or stop < 0:
            raise ValueError(f"no whole section {name}")
        body = content[content.index(b"\n", start) + 1 : stop]
        self._binary = is_binary
        self._body: Any = body if is_binary else body.split()
        self._at = 0

    def take(self, count: int, kind: str) -> np.ndarray:
        """Take numbers: ``i`` int32, ``q`` int64 or ``d`` float64."""
        if self._binary:
            dtype = np.dtype(f"<{kind}")
            found = np.frombuffer(self._body, dtype, count, self._at)
            self._at += count * dtype.itemsize
            return found
        part = self._body[self._at : self._at + count]
        if len(part) < count:
            raise ValueError("numbers end early")
        self._at += count
        return np.array(part, dtype=np.float64 if kind == "d" else np.int64)


def _read(path: Path, content: bytes) -> RawMesh:
    words = content[: content.find(b"$EndMeshFormat")].split()
    binary = words[2] == b"1"
    names = _names(content)
    groups = _entities(content, binary) if b"$Entities" in content else {}
    numbers, points = _nodes(_Section(content, "Nodes", binary))
    place = np.full(numbers.max() + 1, -1)
    place[numbers] = np.arange(len(numbers))
    cells, tags = [], []
    section = _Section(content, "Elements", binary)
    blocks = int(section.take(4, "q")[0])
    for _ in range(blocks):
        dim, entity, kind = section.take(3, "i").tolist()
        count = int(section.take(1, "q")[0])
        if kind not in _KINDS:
            raise FileError(
                path, f"it has cells of Gmsh's kind {kind}", "triangles", "Mesh the surface."
            )
        name, size = _KINDS[kind]
        block = section.take(count * (size + 1), "q").reshape(count, size + 1)[:, 1:]
        group = groups.get((dim, entity), 0)
        label = names.get((dim, group), str(group) if group else "")
        cells.append((name, place[block]))
        tags.append(np.full(count, label, dtype=object))
    return RawMesh(path, points, cells, tags)


def _names(content: bytes) -> dict[tuple[int, int], str]:
    start = content.find(b"$PhysicalNames")
    if start < 0:
        return {}
    lines = content[start : content.find(b"$EndPhysicalNames")].decode("utf-8", "replace")
    found = (line.split(None, 2) for line in lines.splitlines()[2:] if line.strip())
    return {(int(dim), int(tag)): name.strip().strip('"') for dim, tag, name in found}


def _entities(content: bytes, binary: bool) -> dict[tuple[int, int], int]:
    """First physical group of each entity that has one."""
    section = _Section(content, "Entities", binary)
    counts = section.take(4, "q").tolist()
    found: dict[tuple[int, int], int] = {}
    for dim, count in enumerate(counts):
        for _ in range(count):
            tag = int(section.take(1, "i")[0])
            section.take(3 if dim == 0 else 6, "d")
            groups = section.take(int(section.take(1, "q")[0]), "i")
            if dim:
                section.take(int(section.take(1, "q")[0]), "i")
            if len(groups):
                found[dim, tag] = abs(int(groups[0]))
    return found


def _nodes(section: _Section) -> tuple[np.ndarray, np.ndarray]:
    take: Callable[[int, str], np.ndarray] = section.take
    blocks, count = take(4, "q")[:2].tolist()
    numbers, points = [], []
    for _ in range(blocks):
        dim, _, parametric = take(3, "i").tolist()
        size = int(take(1, "q")[0])
        numbers.append(take(size, "q"))
        width = 3 + (dim if parametric else 0)
        points.append(take(size * width, "d").reshape(size, width)[:, :3])
    found = np.concatenate(numbers)
    if len(found) != count:
        raise ValueError(f"{len(found)} of {count} nodes")
    return found, np.concatenate(points)
