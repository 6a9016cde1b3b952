"""Batches of several draws, held-out batches, and pairs as data."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice

import pytest
import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, generate_pairs
from rectiflow.training.held_out import HeldOut
from rectiflow.training.shuffle import BLOCK, WINDOW, shuffled_windows
from rectiflow.training.stream import DrawnBatches, ShuffledBatches, StepStream, drawn


def test_every_row_comes_once_for_each_draw():
    source = DrawnBatches(5, 8, seed=1)
    batches = [list(source.batches(epoch)) for epoch in range(8)]
    assert [len(epoch) for epoch in batches] == [1, 1, 0, 1, 1, 0, 1, 0]
    seen = Counter(index for epoch in batches for batch in epoch for index in batch)
    assert seen == Counter((row, draw) for row in range(5) for draw in range(8))
    assert list(source.batches(4)) == batches[4]


@pytest.mark.parametrize("kind", [ShuffledBatches, DrawnBatches])
def test_the_order_does_not_depend_on_the_size_of_a_batch(kind):
    def order(size):
        source = kind(13, size, seed=3)
        return [i for epoch in range(12) for batch in source.batches(epoch) for i in batch][:120]

    assert order(1) == order(4) == order(5) == order(13)


def test_large_epochs_are_shuffled_in_windows():
    """Every row once; rows of a window are of 64 blocks, which the epoch draws anew."""
    n = 3 * WINDOW + 5
    first, second = (list(shuffled_windows(n, counter_generator(epoch))) for epoch in (0, 1))
    assert [len(window) for window in first[:-1]] == [WINDOW] * 3 or len(first[-1]) <= WINDOW
    assert torch.equal(torch.cat(first).sort()[0], torch.arange(n))
    assert not torch.equal(first[0], second[0])
    for window in first:
        assert len((window // BLOCK).unique()) <= 64
    near = (first[0][1:] - first[0][:-1]).abs().float().median()
    assert near > 10 * BLOCK  # neighbours in time are far apart in the folder
    start = time.process_time()
    next(iter(ShuffledBatches(10**8, 16).batches(0)))
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_batches_need_items(sizes):
    with pytest.raises(ValueError, match="batches need items"):
        DrawnBatches(*sizes)


def test_each_rank_has_its_own_batches():
    streams = [StepStream(drawn(10, 2, 0), rank=rank, world_size=2) for rank in range(2)]
    a, b = ([i for batch in islice(stream, 10) for i in batch] for stream in streams)
    assert Counter(a + b) == Counter((row, draw) for row in range(10) for draw in range(4))


def test_a_run_goes_on_with_other_ranks_and_other_batches():
    """Two ranks of 8, then one of 16, four of 4 or three of 5: no item twice, none left out."""
    whole = [i for batch in islice(StepStream(ShuffledBatches(50, 1)), 200) for (i,) in [batch]]

    def items(size, ranks, steps, start=(0, 0)):
        streams = [
            iter(StepStream(ShuffledBatches(50, size), *start, rank=rank, world_size=ranks))
            for rank in range(ranks)
        ]
        return [i for _ in range(steps) for stream in streams for i in next(stream)]

    seen = items(8, 2, 3)
    assert seen == whole[:48]
    for size, ranks in ((16, 1), (4, 4), (5, 3), (8, 2)):
        rest = items(size, ranks, 4, (6, 48))
        assert rest == whole[48 : 48 + len(rest)]


def test_numbers_are_counted_over_all_ranks():
    streams = [StepStream(drawn(9, 2, 0), 4, rank=rank, world_size=3) for rank in range(3)]
    numbers = [[number for number, _ in islice(stream.numbered(), 2)] for stream in streams]
    assert numbers == [[4, 7], [5, 8], [6, 9]]


def test_held_out_batches_are_the_same_each_time():
    data = [{"x": torch.tensor(float(i))} for i in range(5)]
    batches = HeldOut(data, 2)
    assert len(batches) == 3
    first, second = list(batches), list(batches)
    assert [batch["x"].tolist() for batch in first] == [[0, 1], [2, 3], [4]]
    assert all(a["x"].equal(b["x"]) for a, b in zip(first, second, strict=True))
    chosen = HeldOut(data, [[4, 0], [2]], collate=lambda items: [float(i["x"]) for i in items])
    assert list(chosen) == [[4.0, 0.0], [2.0]]


@pytest.fixture
def pairs(tmp_path):
    """Nine pairs of one shape, and nine of lengths 1 to 3; three real ones of each."""

    def make(name: str, num: int, ragged: bool, offset: float = 0.0):
        def sample(indices):
            sizes = [1 + i % 3 if ragged else 2 for i in indices]
            return [
                Pair(i, torch.zeros(n, 1), torch.full((n, 1), i + offset))
                for i, n in zip(indices, sizes, strict=True)
            ]

        generate_pairs(sample, tmp_path / name, num=num, batch=4, seed=0, progress=False)

    for kind, ragged in (("even", False), ("ragged", True)):
        make(kind, 9, ragged)
        make(f"{kind}_real", 3, ragged, 100.0)
    return tmp_path


class ByLength:
    """One batch for each length."""

    def __init__(self, lengths):
        self.lengths = lengths

    def batches(self, epoch):
        rows = range(len(self.lengths))
        return [[i for i in rows if self.lengths[i] == n] for n in sorted(set(self.lengths))]


def test_pairs_of_one_shape_are_drawn_and_held_out(pairs):
    from rectiflow.rectify.pair_data import PairData

    data = PairData(pairs / "even", 4, hold_out_every=3, real=pairs / "even_real")
    assert data.store.metadata["seed"] == 0
    [held] = list(data.validation)
    assert held["x1"][:, 0, 0].tolist() == [2, 5, 8]
    seen = {float(data.dataset[i]["x1"][0, 0]) for b in data.batches.batches(0) for i in b}
    assert seen <= {0, 1, 3, 4, 6, 7, 100, 101, 102}
    assert set(data.dataset[0, 5]) == {"x0", "x1"}


def test_ragged_pairs_are_batched_by_length(pairs):
    from rectiflow.rectify.pair_data import PairData

    data = PairData(
        pairs / "ragged",
        real=pairs / "ragged_real",
        real_fraction=0.5,
        hold_out_every=2,
        example=lambda record: {"size": torch.tensor(len(record["x1"])), **record},
        length_of="x1",
        batching=ByLength,
        held_out=ByLength,
    )
    source = data.batches
    assert source.lengths == [int(data.dataset[i]["size"]) for i in range(len(data.dataset))]
    held = [batch["size"].tolist() for batch in data.validation]
    assert held == [[1], [2, 2], [3]]


def test_bad_shares_and_empty_sets_are_refused(pairs, tmp_path):
    from rectiflow.rectify.pair_data import PairData

    with pytest.raises(ValueError, match="hold_out_every must be at least 2, got 1"):
        PairData(pairs / "even", hold_out_every=1)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        PairData(tmp_path / "none")
