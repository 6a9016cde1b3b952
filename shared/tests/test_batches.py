"""Batches of several draws, held-out batches, and pairs as data."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from rectiflow.rectify import Pair, generate_pairs
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import DrawnBatches, drawn


def test_every_row_comes_once_for_each_draw():
    source = DrawnBatches(5, 8, seed=1)
    batches = [source.batches(epoch) for epoch in range(3)]
    assert all(len(batch) == 1 and len(batch[0]) == 8 for batch in batches)
    seen = Counter(index for epoch in batches for batch in epoch for index in batch)
    assert max(seen.values()) == 1
    assert {row for row, _ in seen} == set(range(5))
    assert {draw for _, draw in seen} == set(range(6))
    assert source.batches(2) == batches[2]


def test_ranks_share_an_epoch_without_overlap():
    sources = [DrawnBatches(10, 4, rank=rank, world_size=2) for rank in range(2)]
    a, b = ({i for batch in s.batches(0) for i in batch} for s in sources)
    assert len(a) == len(b) == 4
    assert not a & b


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_batches_need_items(sizes):
    with pytest.raises(ValueError, match="batches need items"):
        DrawnBatches(*sizes)


def test_each_rank_has_its_own_batches():
    made = drawn(10, 2, 0)
    assert made(0, 2).batches(0) != made(1, 2).batches(0)


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

    def __init__(self, lengths, *, rank=0, world_size=1):
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
    seen = {float(data.dataset[i]["x1"][0, 0]) for b in data.batches(0, 1).batches(0) for i in b}
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
    source = data.batches(0, 1)
    assert source.lengths == [int(data.dataset[i]["size"]) for i in range(len(data.dataset))]
    held = [batch["size"].tolist() for batch in data.validation]
    assert held == [[1], [2, 2], [3]]


def test_bad_shares_and_empty_sets_are_refused(pairs, tmp_path):
    from rectiflow.rectify.pair_data import PairData

    with pytest.raises(ValueError, match="hold_out_every must be at least 2, got 1"):
        PairData(pairs / "even", hold_out_every=1)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        PairData(tmp_path / "none")
