from __future__ import annotations

import pytest
import torch
from rectiflow_protein.data.batching import LengthBatches
from rectiflow_protein.data.datamodule import BackbonePairs
from rectiflow_protein.data.synthetic import synthetic_pairs


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    for name, num, seed in (("generated", 8, 0), ("real", 3, 1)):
        synthetic_pairs(root / name, num=num, min_length=6, max_length=9, seed=seed)
    return root


def test_every_nth_pair_is_held_out(folders):
    data = BackbonePairs(folders / "generated", hold_out_every=4)
    assert len(data.dataset) == 6
    held = torch.cat([batch["x1.trans"][:, 0] for batch in data.val_dataloader()])
    assert len(held) == 2
    kept = torch.stack([data.dataset[i]["x1.trans"][0] for i in range(6)])
    stored = [data.store[i].x1["trans"][0] for i in (3, 7)]
    for first in stored:
        assert (held == first).all(-1).any()
        assert not (kept == first).all(-1).any()


def test_nothing_need_be_held_out(folders):
    data = BackbonePairs(folders / "generated", hold_out_every=None)
    assert (len(data.dataset), data.val_dataloader()) == (8, None)


def test_batches_hold_noise_and_sample_of_the_same_pair(folders):
    data = BackbonePairs(folders / "generated", LengthBatches, hold_out_every=None)
    [indices] = [b for b in data.batches.batches(0) if 0 in b][:1]
    batch = data.options["collate_fn"]([data.dataset[i] for i in indices])
    assert {"x0.trans", "x0.rot", "x1.trans", "x1.rot", "res_mask", "res_idx"} <= set(batch)
    assert batch["x0.trans"].shape == batch["x1.trans"].shape
    row = indices.index(0)
    torch.testing.assert_close(batch["x0.trans"][row], data.store[0].x0["trans"])


def test_real_pairs_are_a_fixed_share(folders):
    data = BackbonePairs(
        folders / "generated", real=folders / "real", real_fraction=0.5, hold_out_every=None
    )
    mixed = data.dataset
    assert len(mixed) == 16
    assert sum(mixed.is_real(i) for i in range(16)) == 8
    source = data.batches
    assert list(source.lengths) == [len(mixed[i]["x1.trans"]) for i in range(16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hold_out_every": 1}, "hold_out_every must be at least 2, got 1"),
        ({"real_fraction": 1.5}, "fraction of real pairs must lie in"),
    ],
)
def test_bad_options_are_refused(options, message, folders):
    with pytest.raises(ValueError, match=message):
        BackbonePairs(folders / "generated", real=folders / "real", **options)


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        BackbonePairs(tmp_path)
