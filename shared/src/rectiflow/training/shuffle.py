"""The order of an epoch, planned a window at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 1024
"""Neighbouring rows that stay in one window; a shard of prepared data has as many records."""

WINDOW = 64 * BLOCK
"""Rows that are shuffled among each other."""


def shuffled_windows(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Give the rows 0 ... n - 1 in random order, in parts that are made when they are asked for.

    Up to :data:`WINDOW` rows are one permutation, drawn uniformly. More rows are cut into blocks,
    the blocks permuted, and the rows of 64 blocks at a time shuffled: 64 shards are read at once
    then, and a plan takes the memory of one window, however many rows there are.

    Parameters
    ----------
    n : int
        Rows.
    generator : torch.Generator
        Fixes the order; whoever draws from it between two windows changes the second.

    Yields
    ------
    Tensor, int64, shape (rows of the window,)
    """
    if n <= WINDOW:
        yield torch.randperm(n, generator=generator)
        return
    blocks = torch.randperm(-(-n // BLOCK), generator=generator)
    for chosen in blocks.split(WINDOW // BLOCK):
        rows = (chosen[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
        rows = rows[rows < n]
        yield rows[torch.randperm(len(rows), generator=generator)]
