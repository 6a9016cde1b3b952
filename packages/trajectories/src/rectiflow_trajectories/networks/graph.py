"""Graphs of a batch: padded, as batches come, and joined into one, as networks take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Told: TypeAlias = dict[str, Tensor]
"""What a network is told of padded graphs: ``nodes (b, n, f)`` or ``(b, n, t, f)``, ``edges
(b, n, n, e)``, ``linked (b, n, n)`` and ``real (b, n)`` of booleans; ``given (b, n, s, d)`` where
frames are given, and ``reference (b, n, t, d)`` where it is known already."""


class Graph(NamedTuple):
    """Graphs joined into one.

    Attributes
    ----------
    edges : Tensor, shape (2, e)
        Receiver and neighbour of each directed edge.
    attributes : Tensor, shape (e, k) or (e, t, k)
        Of the edges, invariant.
    batch : Tensor, shape (m,)
        Number of the graph of each node, ascending from 0.
    graphs : int
        How many were joined.
    """

    edges: Int[Tensor, "2 e"]
    attributes: Float[Tensor, "e *t k"]
    batch: Int[Tensor, " m"]
    graphs: int

    @classmethod
    def of(cls, told: Told) -> Self:
        """Join the real nodes of padded graphs, in order."""
        real = told["real"]
        place = (real.flatten().cumsum(0) - 1).view(real.shape)
        linked = told["linked"] & real[:, :, None] & real[:, None, :]
        graph, i, j = linked.nonzero(as_tuple=True)
        edges = torch.stack([place[graph, i], place[graph, j]])
        return cls(edges, told["edges"][graph, i, j], real.nonzero()[:, 0], len(real))

    def mean(self, values: Float[Tensor, "m t *d"]) -> Float[Tensor, "m 1 *d"]:
        """Return the mean over the nodes of each graph and the frames, for each node."""
        return nodes_mean(values.mean(1, keepdim=True), self.batch, self.graphs)[self.batch]


def nodes_mean(values: Float[Tensor, "m ..."], to: Int[Tensor, " m"], count: int) -> Tensor:
    """Return the mean of the rows that go to each of ``count`` places; 0 where none does."""
    total = values.new_zeros(count, *values.shape[1:]).index_add(0, to, values)
    rows = torch.bincount(to, minlength=count).clamp(min=1).to(values)
    return total / rows.view(-1, *(1,) * (values.ndim - 1))


def centred(x: Float[Tensor, "b n t d"], real: Bool[Tensor, "b n"]) -> Float[Tensor, "b n t d"]:
    """Take the mean over nodes and frames of each graph away; padding becomes 0."""
    weight = real[:, :, None, None].to(x)
    size = weight.sum((1, 2, 3)).clamp(min=1) * x.shape[2]
    mean = (x * weight).sum((1, 2), keepdim=True) / size[:, None, None, None]
    return (x - mean) * weight
