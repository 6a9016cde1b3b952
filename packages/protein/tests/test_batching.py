"""Batches agree with the official code, and padding changes nothing real."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.training.shuffle import WINDOW
from rectiflow_protein.data import (
    BackboneDataset,
    Crop,
    CropBatches,
    LengthBatches,
    LengthFilter,
    MaximumFilter,
    PaddedBatches,
    RadiusOfGyrationFilter,
    collate,
    renumber,
)

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden" / "reqflow_data.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def lengths():
    return np.random.default_rng(0).integers(60, 256, size=500).tolist()


def test_length_batches_are_the_official_ones(golden):
    source = LengthBatches(
        golden["lengths"],
        max_batch_size=6,
        max_num_res_squared=20_000,
        seed=123,
    )
    expected = golden["batches"]["world1_rank0"]
    assert [list(source.batches(epoch)) for epoch in range(len(expected))] == expected
    assert list(source.batches(0)) == expected[0]  # epochs may be asked for in any order


def test_filters_are_the_official_ones(golden):
    told = golden["filter_in"]
    table = {
        "length": np.array(told["modeled_seq_len"]),
        "coil": np.array(told["coil_percent"]),
        "radius_gyration": 10 * np.array(told["radius_gyration"]),  # nm
    }
    rows = np.arange(len(table["length"]))
    for condition in (
        LengthFilter(60, 180),
        MaximumFilter("coil", 0.5),
        RadiusOfGyrationFilter(0.96),
    ):
        rows = rows[condition.keep({key: column[rows] for key, column in table.items()})]
    assert rows.tolist() == golden["filter_kept"]


def test_filters_say_why():
    table = {
        "length": np.array([20, 70, 70]),
        "resolution": np.array([2.0, np.nan, 3.0]),
        "radius_gyration": np.array([9.0, 10.0, 30.0]),
    }
    assert "20 residues, outside 60 to 512" in LengthFilter().reason(table, 0)
    assert "resolution is unknown" in MaximumFilter("resolution", 3.0).reason(table, 1)
    assert "is 3, not below 3" in MaximumFilter("resolution", 3.0, strict=True).reason(table, 2)
    assert not MaximumFilter("resolution", 9.0).keep(table)[1]
    compact = RadiusOfGyrationFilter(0.5)
    assert compact.keep(table).tolist() == [True, True, False]
    assert "radius of gyration 30.0 Å, not below" in compact.reason(table, 2)
    with pytest.raises(ValueError, match=r"1 <= min_length <= max_length, got 70 and 60"):
        LengthFilter(70, 60)
    with pytest.raises(ValueError, match=r"rg_quantile must lie in \(0, 1\], got 0"):
        RadiusOfGyrationFilter(0.0)


@pytest.mark.parametrize("kind", [LengthBatches, PaddedBatches])
def test_each_cluster_gives_one_chain_per_epoch(lengths, kind):
    clusters = [f"c{i % 90}" for i in range(len(lengths))]
    source = kind(lengths, clusters, max_num_res_squared=100_000)
    for epoch in (0, 1):
        rows = {row for batch in source.batches(epoch) for row in batch}
        assert len({clusters[row] for row in rows}) == len(rows) <= 90
    first, second = (sorted({r for b in source.batches(e) for r in b}) for e in (0, 1))
    assert first != second


@pytest.mark.parametrize("kind", [LengthBatches, PaddedBatches])
def test_batches_keep_the_budget(lengths, kind):
    budget = 150_000
    source = kind(lengths, max_batch_size=16, max_num_res_squared=budget)
    for epoch in (0, 3):
        for batch in source.batches(epoch):
            longest = max(lengths[row] for row in batch)
            over = longest**2 if kind is LengthBatches else 0  # the published "+ 1"
            assert len(batch) * longest**2 <= budget + over
            assert len(batch) <= 16


def test_padded_batches_use_every_chain_once_and_pad_little(lengths):
    source = PaddedBatches(lengths, max_num_res_squared=200_000)
    batches = list(source.batches(5))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    used = sum(lengths[row] ** 2 for batch in batches for row in batch)
    padded = sum(len(batch) * max(lengths[row] for row in batch) ** 2 for batch in batches)
    assert used / padded > 0.85
    assert list(source.batches(5)) == batches != list(source.batches(6))


def test_padded_batches_without_shuffle_are_sorted_by_length(lengths):
    batches = PaddedBatches(lengths, max_num_res_squared=200_000, shuffle=False).batches(0)
    order = [lengths[row] for batch in batches for row in batch]
    assert order == sorted(lengths)


def test_a_chain_over_the_budget_is_a_batch_by_itself():
    batches = list(PaddedBatches([100, 900, 101], max_num_res_squared=30_000).batches(0))
    assert [1] in batches


@pytest.mark.parametrize("kind", [PaddedBatches, LengthBatches, CropBatches])
def test_large_epochs_are_planned_a_window_at_a_time(kind):
    """The first batch of a million chains comes at once, and the epoch uses every chain."""
    n = 3 * WINDOW
    lengths = np.random.default_rng(0).integers(60, 256, size=n)
    source = kind(lengths, max_num_res_squared=500_000)
    start = time.process_time()
    first = next(iter(source.batches(0)))
    assert time.process_time() - start < 3.0
    if kind is PaddedBatches:
        rows = [row for batch in source.batches(0) for row in batch]
        assert sorted(rows) == list(range(n))
        assert first == rows[: len(first)]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "lengths must be positive and not empty, got 0"),
        (([10, 0],), {}, "lengths must be positive"),
        (([10, 10], ["a"]), {}, "one cluster per chain, got 1; expected 2"),
        (([10],), {"max_batch_size": 0}, "at least one chain, got max_batch_size=0"),
        (([10],), {"spread": 2.0}, "spread is out of range, got 2.0"),
    ],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        PaddedBatches(*arguments, **options)


def _record(n: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "coords": 10 * torch.randn(n, 4, 3, generator=generator) + 50,
        "aatype": torch.randint(0, 21, (n,), generator=generator).to(torch.int8),
        "residue_index": torch.arange(5, 5 + n, dtype=torch.int32),
        "chain_index": torch.zeros(n, dtype=torch.int16),
    }


def test_example_is_centred_and_oriented_by_its_atoms():
    record = _record(30)
    item = BackboneDataset([record])[0]
    assert item["x1.trans"].mean(0).abs().max() < 1e-4
    assert torch.allclose(item["x1.rot"].norm(dim=-1), torch.ones(30), atol=1e-6)
    assert item["res_idx"].tolist() == list(range(1, 31))
    assert item["res_mask"].eq(1).all()
    assert item["diffuse_mask"].eq(1).all()
    from rectiflow.spaces import quat_to_rotmat

    axis = quat_to_rotmat(item["x1.rot"])[..., 0]
    towards_c = record["coords"][:, 2] - record["coords"][:, 1]
    cosine = torch.cosine_similarity(axis, towards_c, dim=-1)
    assert cosine.min() > 1 - 1e-5


def test_rows_choose_and_order_the_records():
    records = [_record(n) for n in (5, 6, 7)]
    dataset = BackboneDataset(records, rows=[2, 0])
    assert [len(dataset[i]["aatype"]) for i in range(len(dataset))] == [7, 5]


@pytest.mark.parametrize(
    ("numbers", "chains", "expected"),
    [
        ([7, 8, 12], [0, 0, 0], [1, 2, 6]),  # a gap stays a gap
        ([52, 52, 53], [0, 0, 0], [1, 2, 3]),  # insertion code
        ([-2, -1, 0, 1], [0, 0, 0, 0], [1, 2, 3, 4]),
        ([90, 91, 3, 4], [0, 0, 1, 1], [1, 2, 1, 2]),
        ([5, 4, 3], [0, 0, 0], [1, 2, 3]),  # numbers that go back
    ],
)
def test_residues_are_numbered_from_one_in_each_chain(numbers, chains, expected):
    assert renumber(torch.tensor(numbers), torch.tensor(chains)).tolist() == expected


def test_collate_pads_with_masked_identities():
    dataset = BackboneDataset([_record(5, 1), _record(9, 2)])
    items = [dataset[0], dataset[1]]
    batch = collate(items, multiple=4)
    assert batch["x1.trans"].shape == (2, 12, 3)
    assert batch["res_mask"].sum(1).tolist() == [5, 9]
    for i, item in enumerate(items):
        n = len(item["aatype"])
        for key, value in item.items():
            assert torch.equal(batch[key][i, :n], value)
            assert batch[key].dtype == value.dtype
        assert batch["x1.rot"][i, n:].tolist() == [[1, 0, 0, 0]] * (12 - n)
        assert batch["aatype"][i, n:].eq(20).all()
        assert batch["diffuse_mask"][i, n:].eq(0).all()
        assert batch["res_idx"][i, n:].eq(0).all()


def test_collate_refuses_nothing():
    with pytest.raises(ValueError, match="got 0 items"):
        collate([])
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        collate([{"a": torch.zeros(2)}], multiple=0)


def test_crops_use_every_chain_once_and_fill_the_budget(lengths):
    source = CropBatches(lengths, max_num_res_squared=26_000, shortest=40, longest=96)
    crops = list(source.batches(3))
    rows = [crop.row for batch in crops for crop in batch]
    assert sorted(rows) == list(range(len(lengths)))
    sizes = []
    for batch in crops:
        (length,) = {crop.stop - crop.start for crop in batch}
        assert 40 <= length <= 96
        assert len(batch) == 1 or len(batch) * length**2 <= 26_000
        assert all(crop.start >= 0 and crop.stop <= lengths[crop.row] for crop in batch)
        sizes.append(length)
    assert len(set(sizes)) > 20
    assert crops == list(source.batches(3))
    assert crops != list(source.batches(4))


def test_crops_reach_both_ends_of_a_chain():
    source = CropBatches([50], shortest=40, longest=48)
    seen = [next(source.batches(epoch))[0] for epoch in range(300)]
    assert {crop.stop - crop.start for crop in seen} == set(range(40, 49))
    assert min(crop.start for crop in seen) == 0
    assert max(crop.stop for crop in seen) == 50


def test_whole_chains_are_hardly_cut():
    lengths = np.random.default_rng(0).integers(40, 256, size=600).tolist()
    options = {"max_num_res_squared": 26_000, "shortest": 40, "longest": 96}
    source = CropBatches(lengths, whole=0.6, **options)
    crops = list(source.batches(2))
    assert sorted(crop.row for batch in crops for crop in batch) == list(range(len(lengths)))
    assert crops == list(source.batches(2))
    cuts = [
        max(lengths[crop.row] - (crop.stop - crop.start) for crop in batch)
        for batch in crops
        if max(lengths[crop.row] for crop in batch) <= 96
    ]
    assert len(cuts) > 20
    assert np.median(cuts) <= 3
    alone = list(CropBatches(lengths, whole=1.0, **options).batches(0))
    whole = [
        crop for batch in alone for crop in batch if crop.stop - crop.start == lengths[crop.row]
    ]
    assert len(whole) > 0.5 * sum(length <= 96 for length in lengths)
    none = CropBatches([120] * 9, whole=1.0, longest=96)
    assert all(crop.stop - crop.start <= 96 for batch in none.batches(0) for crop in batch)
    with pytest.raises(ValueError, match="whole must be a share of batches, got 2"):
        CropBatches([60], whole=2)


def test_crops_of_one_chain_per_cluster():
    source = CropBatches([60, 70, 80, 90], ["a", "a", "b", "b"], longest=60)
    for epoch in range(5):
        rows = {crop.row for batch in source.batches(epoch) for crop in batch}
        assert len(rows & {0, 1}) == len(rows & {2, 3}) == 1


def test_a_chain_too_short_to_crop_is_refused():
    with pytest.raises(ValueError, match="a chain of 39"):
        CropBatches([60, 39], shortest=40)


def test_a_crop_is_an_example_of_its_own():
    record = _record(30)
    dataset = BackboneDataset([_record(9, 1), record])
    item = dataset[Crop(1, 5, 17)]
    piece = {name: part[5:17] for name, part in record.items()}
    expected = BackboneDataset([piece])[0]
    assert item["x1.trans"].shape == (12, 3)
    assert all(torch.equal(item[key], expected[key]) for key in expected)
    assert item["res_idx"][0] == 1
