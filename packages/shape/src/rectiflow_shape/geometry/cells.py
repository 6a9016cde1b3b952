"""The 256 ways a surface passes through a cell, derived rather than tabled.

Corners of a cell are numbered by bits (x + 2y + 4z), edges by :data:`EDGES`. On every side of the
cell, seen from outside and walked counter-clockwise, the edge where the walk leaves the inside is
joined with the next one where it enters again. That rule depends on the four corners alone, so two
cells agree on the side that they share, and every crossed edge has one successor: the surface is
closed. Where two inside corners face each other diagonally it joins them, so that thin parts stay
whole. A loop is cut into triangles without a diagonal in a side of the cell, which a neighbour
could have too: no edge gets four faces.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

EDGES = tuple((a, a | 1 << axis, axis) for axis in range(3) for a in range(8) if not a >> axis & 1)
"""Lower corner, upper corner and axis of the 12 edges."""

_BETWEEN = {frozenset(edge[:2]): k for k, edge in enumerate(EDGES)}


def _sides() -> list[tuple[int, int, int, int]]:
    """Corners of the six sides, counter-clockwise from outside."""
    sides: list[tuple[int, int, int, int]] = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        high = 1 << axis
        sides += [(high, high | u, high | u | v, high | v), (0, v, u | v, u)]
    return sides


_SIDES = _sides()
_SIDES_OF = [{s for s, side in enumerate(_SIDES) if {a, b} <= set(side)} for a, b, _ in EDGES]


def _loops(case: int) -> list[list[int]]:
    """Edges that the surface crosses, loop by loop; seen from outside they turn clockwise."""
    follows: dict[int, int] = {}
    for side in _SIDES:
        ring = [*side, side[0]]
        steps = [
            (case >> a & 1, case >> b & 1, _BETWEEN[frozenset((a, b))]) for a, b in pairwise(ring)
        ]
        for k, (inside, next_inside, edge) in enumerate(steps):
            if inside and not next_inside:
                later = steps[k + 1 :] + steps[:k]
                follows[edge] = next(e for i, j, e in later if j and not i)
    loops = []
    while follows:
        start = min(follows)
        loop = [start]
        while (edge := follows.pop(loop[-1])) != start:
            loop.append(edge)
        loops.append(loop)
    return loops


def _triangles(loop: list[int]) -> list[tuple[int, int, int]] | None:
    """Cut a loop into triangles whose diagonals lie in no side of the cell; None if none are so."""
    if len(loop) < 3:
        return []
    last = len(loop) - 1
    for k in range(1, last):
        diagonals = [(loop[0], loop[k])] * (k > 1) + [(loop[k], loop[last])] * (k < last - 1)
        if any(_SIDES_OF[a] & _SIDES_OF[b] for a, b in diagonals):
            continue
        before, after = _triangles(loop[: k + 1]), _triangles(loop[k:])
        if before is not None and after is not None:
            return [*before, (loop[last], loop[k], loop[0]), *after]
    return None


@cache
def triangle_table() -> tuple[Tensor, Tensor]:
    """Return the triangles of each case as edges ``(256, t, 3)``, and their numbers ``(256,)``.

    Bit ``c`` of a case says that corner ``c`` is inside; triangles look outside.
    """
    cases = [[t for loop in _loops(case) for t in _triangles(loop) or ()] for case in range(256)]
    table = torch.full((256, max(map(len, cases)), 3), -1)
    for case, found in enumerate(cases):
        if found:
            table[case, : len(found)] = torch.tensor(found)
    return table, torch.tensor([len(found) for found in cases])
