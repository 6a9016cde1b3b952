"""Which points lie within a radius of which: found by cells, linear in points and pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CANDIDATES = 2_000_000
"""Pairs compared at a time: about 200 MB."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Sources near each query, in rows one after the other.

    Attributes
    ----------
    source : Tensor, shape (e,), int32
        Number of a source, by query.
    query : Tensor, shape (e,), int32
        Number of its query.
    n_sources, n_queries : int
        How many there are, those without a neighbour included.
    """

    source: Int[Tensor, " e"]
    query: Int[Tensor, " e"]
    n_sources: int
    n_queries: int

    @property
    def counts(self) -> Int[Tensor, " q"]:
        """Neighbours of each query."""
        return torch.bincount(self.query, minlength=self.n_queries)

    def turned(self) -> Neighbours:
        """Return the same pairs with the roles exchanged."""
        order = torch.argsort(self.source, stable=True)
        return Neighbours(self.query[order], self.source[order], self.n_queries, self.n_sources)

    def to(self, device: torch.device | str) -> Neighbours:
        """Move to a device."""
        moved = self.source.to(device), self.query.to(device)
        return Neighbours(*moved, self.n_sources, self.n_queries)


def joined(parts: Sequence[Neighbours]) -> Neighbours:
    """Put the neighbours of several clouds into one, numbers counted on from cloud to cloud."""
    sources = np.cumsum([0, *(part.n_sources for part in parts)])
    queries = np.cumsum([0, *(part.n_queries for part in parts)])
    rows = [
        (part.source + int(s), part.query + int(q))
        for part, s, q in zip(parts, sources, queries, strict=False)
    ]
    source, query = (torch.cat(column) for column in zip(*rows, strict=True))
    return Neighbours(source, query, int(sources[-1]), int(queries[-1]))


def within_radius(
    queries: Float[np.ndarray, "q d"], sources: Float[np.ndarray, "s d"], radius: float
) -> Neighbours:
    """Find the sources at most ``radius`` away from each query.

    Sources are sorted into cubes as wide as the radius, and a query is compared with those in the
    3^d cubes around it. Time and memory are linear in points and pairs.

    Parameters
    ----------
    queries, sources : ndarray, shapes (q, d) and (s, d)
        Points; compared in float64.
    radius : float
        The distance, itself included.
    """
    if len(queries) > len(sources):  # the relation is symmetric, and fewer queries cost less
        return within_radius(sources, queries, radius).turned()
    queries, sources = (np.asarray(x, np.float64) for x in (queries, sources))
    low = np.minimum(queries.min(0), sources.min(0)) - 1.5 * radius
    cells = np.floor((sources - low) / radius).astype(np.int64)
    wide = np.floor((np.maximum(queries.max(0), sources.max(0)) - low) / radius).astype(int) + 2
    strides = np.append(np.cumprod(wide[:0:-1])[::-1], 1).astype(np.int64)
    keys = cells @ strides
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    along, across = (np.ascontiguousarray(x.T) for x in (sources[order], queries))
    own = np.floor((queries - low) / radius).astype(np.int64) @ strides
    # Cubes that follow each other along the last axis are one range of sorted sources.
    around = np.array(list(itertools.product((-1, 0, 1), repeat=sources.shape[1] - 1)), np.int64)
    shifts = around.reshape(-1, sources.shape[1] - 1) @ strides[:-1]
    first = np.searchsorted(keys, own[:, None] + shifts - 1, side="left")
    counts = np.searchsorted(keys, own[:, None] + shifts + 1, side="right") - first
    ends = np.cumsum(counts.sum(1))
    found = []
    start = 0
    while start < len(queries):
        passed = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, passed + CANDIDATES, side="right")), start + 1)
        number = counts[start:stop].ravel()
        query = np.repeat(np.arange(start, stop), counts[start:stop].sum(1))
        offset = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
        place = np.repeat(first[start:stop].ravel(), number) + offset
        near = sum(np.square(s[place] - q[query]) for s, q in zip(along, across, strict=True))
        kept = near <= radius * radius
        found.append((query[kept].astype(np.int32), order[place[kept]].astype(np.int32)))
        start = stop
    ends_at, starts_at = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*found, strict=True)
    )
    return Neighbours(starts_at, ends_at, len(sources), len(queries))
