"""Mesh files of lines: OBJ and OFF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.polygons import Parsed, triangulate

_OTHERS = {"l": "lines", "p": "points", "curv": "curves", "curv2": "curves", "surf": "surfaces"}


def parse_obj(content: bytes, path: Path) -> Parsed:
    """Read Wavefront OBJ: ``v`` and ``f``; negative indices count back from their own line."""
    vertices: list[list[float]] = []
    polygons: list[list[int]] = []
    left_out: Counter[str] = Counter()
    for number, line in _lines(content.replace(b"\\\n", b" ").replace(b"\\\r\n", b" ")):
        kind, *words = line.split()
        try:
            if kind == "v":
                vertices.append([float(word) for word in words[:3]])
                if len(words) < 3:
                    raise ValueError("a vertex with fewer than 3 numbers")
            elif kind == "f":
                told = [int(word.partition("/")[0]) for word in words]
                polygon = [k - 1 if k > 0 else k + len(vertices) for k in told]
                if len(polygon) < 3 or 0 in told or min(polygon) < 0:
                    raise ValueError("a face of fewer than 3 corners, or an index before the first")
                polygons.append(polygon)
            elif kind in _OTHERS:
                left_out[_OTHERS[kind]] += 1
        except ValueError as error:
            _damaged(path, number, error)
    _check_indices(path, polygons, len(vertices))
    points = np.array(vertices, float).reshape(-1, 3)
    notes = tuple(f"left out {count} {what}" for what, count in left_out.items())
    return Parsed(points, triangulate(points, polygons), notes)


def parse_off(content: bytes, path: Path) -> Parsed:
    """Read OFF, COFF, NOFF and STOFF; colours, normals and texture places are left out."""
    lines = _lines(content)
    _, head = next(lines, (0, ""))
    kind, *rest = head.split() or [""]
    if not kind.upper().endswith("OFF") or "BINARY" in head.upper() or "4" in kind or "n" in kind:
        raise MeshFileError(
            path,
            f"its first word is {kind[:20]!r}",
            "OFF, COFF, NOFF or STOFF as text",
            "Export it as PLY or OBJ.",
        )
    number = 1
    try:
        if not rest:
            number, line = next(lines)
            rest = line.split()
        n_vertices, n_faces = int(rest[0]), int(rest[1])
        points = np.empty((n_vertices, 3))
        for k in range(n_vertices):
            number, line = next(lines)
            points[k] = [float(word) for word in line.split()[:3]]
        polygons = []
        for _ in range(n_faces):
            number, line = next(lines)
            words = line.split()
            polygons.append([int(word) for word in words[1 : 1 + int(words[0])]])
            if len(polygons[-1]) != int(words[0]):
                raise ValueError("fewer corners than it says")
    except StopIteration:
        raise MeshFileError(
            path,
            f"it is cut short, line {number} is the last",
            "as many vertices and faces as it says",
            "Copy it again.",
        ) from None
    except (ValueError, IndexError) as error:
        _damaged(path, number, error)
    _check_indices(path, polygons, n_vertices)
    return Parsed(points, triangulate(points, [each for each in polygons if len(each) > 2]))


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield lines that say something, with their numbers."""
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield number, said


def _check_indices(path: Path, polygons: list[list[int]], count: int) -> None:
    most = max((max(polygon) for polygon in polygons), default=-1)
    least = min((min(polygon) for polygon in polygons), default=0)
    if most >= count or least < 0:
        raise MeshFileError(
            path,
            f"a face names vertex {most + 1 if most >= count else least} of {count}",
            f"indices of its {count} vertices",
            "Export it again.",
        )


def _damaged(path: Path, number: int, error: Exception) -> NoReturn:
    raise MeshFileError(
        path, f"line {number} is damaged ({error})", "numbers", "Export it again."
    ) from error
