"""Mesh files of records: STL and PLY, as bytes or as text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.polygons import Parsed, triangulate

_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_NUMBER = rb"\s+([^\s]+)"
_VERTEX = re.compile(rb"\bvertex" + 3 * _NUMBER, re.IGNORECASE)
_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"), **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"), **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"), **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"), **dict.fromkeys(("double", "float64"), "f8"),
}  # fmt: skip


def parse_stl(content: bytes, path: Path) -> Parsed:
    """Read STL: as bytes if its length says so, whatever it begins with, else as text."""
    count = int.from_bytes(content[80:84], "little")
    size = 84 + count * _STL.itemsize
    if len(content) >= 84 and len(content) == size:
        corners = np.frombuffer(content, _STL, count, 84)["corners"].reshape(-1, 3)
    elif content.lstrip()[:5].lower() == b"solid" and b"\0" not in content[:1000]:
        if not content.rstrip().lower().splitlines()[-1].strip().startswith(b"endsolid"):
            raise MeshFileError(
                path,
                "it is cut short, its last line is not endsolid",
                "a whole file",
                "Copy it again.",
            )
        try:
            corners = np.array(_VERTEX.findall(content)).astype(float).reshape(-1, 3)
            corners.reshape(-1, 3, 3)
        except ValueError as error:
            raise MeshFileError(
                path,
                f"its corners are damaged ({error})",
                "three numbers each, three a facet",
                "Export it again.",
            ) from error
    elif len(content) < size:
        have = max(0, len(content) - 84) / _STL.itemsize
        raise MeshFileError(
            path,
            f"it is cut short: its header says {count} triangles, {have:.1f} are there",
            "a whole STL file",
            "Copy it again.",
        )
    else:
        raise MeshFileError(
            path,
            f"it has {len(content) - size} bytes more than its {count} triangles take",
            "an STL file",
            "Export it again.",
        )
    return Parsed(corners.astype(float), np.arange(len(corners)).reshape(-1, 3))


Table = dict[str, Any]
"""What an element has of each property: numbers, or lists of them."""


@dataclass
class _Element:
    name: str
    count: int
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Name, type, and the type of the length if it is a list."""


def parse_ply(content: bytes, path: Path) -> Parsed:
    """Read PLY: places and normals of ``vertex``, corners of ``face``; all else is left out."""
    order, elements, start = _header(content, path)
    tables: dict[str, Table] = {}
    text = content[start:].split() if order is None else None
    at = 0 if order is None else start
    try:
        for element in elements:
            if text is not None:
                table, at = _from_text(text, at, element)
            else:
                table, at = _from_bytes(content, at, element, str(order))
            tables[element.name] = table
        vertex, face = tables["vertex"], tables.get("face", {})
        points = np.stack([np.asarray(vertex[k], float) for k in "xyz"], 1)
        told = [np.asarray(vertex[k], float) for k in ("nx", "ny", "nz") if k in vertex]
        lists: Any = next((face[k] for k in ("vertex_indices", "vertex_index") if k in face), [])
        if "tristrips" in tables and not len(lists):
            raise KeyError("face (it has triangle strips)")
    except (KeyError, IndexError, ValueError) as error:
        raise MeshFileError(
            path,
            f"it is cut short or lacks what it says ({error})",
            "vertices with x, y, z and faces with vertex_indices",
            "Export it again.",
        ) from error
    polygons = [np.asarray(each).tolist() for each in lists]
    most = max((max(each) for each in polygons if each), default=-1)
    if most >= len(points) or any(min(each, default=0) < 0 for each in polygons):
        raise MeshFileError(
            path,
            f"a face names vertex {most} of {len(points)}",
            f"indices of its {len(points)} vertices, from 0",
            "Export it again.",
        )
    normals = np.stack(told, 1) if len(told) == 3 else None
    triangles = triangulate(points, [each for each in polygons if len(each) > 2])
    return Parsed(points, triangles, normals=normals)


def _header(content: bytes, path: Path) -> tuple[str | None, list[_Element], int]:
    end = re.search(rb"end_header[ \t]*\r?\n", content[: 1 << 16])
    words = (
        [line.split() for line in content[: end.start()].decode("latin-1").splitlines()]
        if end
        else []
    )
    if not words or words[0] != ["ply"]:
        raise MeshFileError(path, "it has no PLY header", "ply ... end_header", "Export it again.")
    order: str | None = None
    elements: list[_Element] = []
    try:
        for word in words[1:]:
            if word[:1] == ["format"]:
                order = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}[
                    word[1]
                ]
            elif word[:1] == ["element"]:
                elements.append(_Element(word[1], int(word[2])))
            elif word[:2] == ["property", "list"]:
                elements[-1].properties.append((word[4], _TYPES[word[3]], _TYPES[word[2]]))
            elif word[:1] == ["property"]:
                elements[-1].properties.append((word[2], _TYPES[word[1]], None))
    except (KeyError, IndexError, ValueError) as error:
        raise MeshFileError(
            path, f"its header is damaged ({error})", "a PLY header", "Export it again."
        ) from error
    assert end is not None
    return order, elements, end.end()


def _from_text(words: list[bytes], at: int, element: _Element) -> tuple[Table, int]:
    table: Table = {name: [] for name, _, _ in element.properties}
    for _ in range(element.count):
        for name, kind, length in element.properties:
            count = 1 if length is None else int(words[at])
            at += length is not None
            made = [float(w) if kind[0] == "f" else int(w) for w in words[at : at + count]]
            if len(made) < count:
                raise IndexError("it ends early")
            table[name].append(made[0] if length is None else made)
            at += count
    return table, at


def _from_bytes(content: bytes, at: int, element: _Element, order: str) -> tuple[Table, int]:
    """Read an element at once if all lists are as long as those of its first row, else by row."""
    fields: list[tuple] = []
    place = at
    for name, kind, length in element.properties:
        if length is None:
            fields.append((name, order + kind))
            place += np.dtype(kind).itemsize
        else:
            count = _int(content, place, order + length) if element.count else 0
            fields += [(f"{name} length", order + length), (name, order + kind, (count,))]
            place += np.dtype(length).itemsize + count * np.dtype(kind).itemsize
    row = np.dtype(fields)
    if at + element.count * row.itemsize <= len(content):
        rows = np.frombuffer(content, row, element.count, at)
        lists = [name for name, _, length in element.properties if length is not None]
        if all((rows[f"{name} length"] == row[name].shape[0]).all() for name in lists):
            table = {name: rows[name] for name, _, _ in element.properties}
            return table, at + element.count * row.itemsize
    slow: Table = {name: [] for name, _, _ in element.properties}
    for _ in range(element.count):
        for name, kind, length in element.properties:
            count = 1
            if length is not None:
                count = _int(content, at, order + length)
                at += np.dtype(length).itemsize
            made = np.frombuffer(content, order + kind, count, at)
            at += made.nbytes
            slow[name].append(made[0] if length is None else made)
    return slow, at


def _int(content: bytes, at: int, kind: str) -> int:
    return int(np.frombuffer(content, kind, 1, at)[0])
