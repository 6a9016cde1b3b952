"""The data module gives the same batches wherever a run starts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from rectiflow.storage.shards import ShardWriter
from rectiflow.storage.table import write_rows
from rectiflow_protein.data import LengthBatches, LengthFilter, PaddedBatches
from rectiflow_protein.data.prepared import COLUMNS

pytest.importorskip("lightning")

from rectiflow.training.stream import step_loader
from rectiflow_protein.data.datamodule import BackboneDataModule


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Thirty chains of 10 to 16 residues in 15 clusters, the last ten held out."""
    folder = tmp_path_factory.mktemp("prepared")
    rows = []
    generator = torch.Generator().manual_seed(0)
    with ShardWriter(folder) as writer:
        for k in range(30):
            n = 10 + k % 7
            row = dict.fromkeys(COLUMNS, 0) | {"name": f"s{k}", "length": n, "source": "x"}
            rows.append(row | {"cluster": k // 2, "split": "train" if k < 20 else "valid"})
            number = torch.arange(n, dtype=torch.int32)
            record = {"coords": torch.randn(n, 4, 3, generator=generator), "residue_index": number}
            record |= {"aatype": number.to(torch.int8), "chain_index": 0 * number.to(torch.int16)}
            writer.add(record)
    write_rows(folder / "metadata.csv", COLUMNS, rows)
    return folder


@pytest.mark.parametrize("kind", [PaddedBatches, LengthBatches])
def test_a_run_continues_in_the_middle_of_an_epoch(prepared, kind):
    data = BackboneDataModule(prepared, partial(kind, max_num_res_squared=600), multiple=4)
    source = data.batches
    whole = iter(step_loader(data.dataset, source, **data.options))
    start = len(list(source.batches(0))) + 1
    batches = [next(whole) for _ in range(2 * start)]
    rest = iter(step_loader(data.dataset, source, start_batch=start, **data.options))
    for expected, batch in zip(batches[start:], rest, strict=False):
        assert all(torch.equal(batch[key], expected[key]) for key in expected)
    assert all(batch["x1.trans"].shape[1] % 4 == 0 for batch in batches)


def test_an_epoch_draws_one_chain_per_cluster_or_all(prepared):
    def drawn(data):
        return sum(len(batch) for batch in data.batches.batches(0))

    assert drawn(BackboneDataModule(prepared)) == 10
    assert drawn(BackboneDataModule(prepared, by_cluster=False)) == 20


def test_held_out_batches_are_the_valid_split_each_time(prepared):
    data = BackboneDataModule(prepared)
    first, second = list(data.validation), list(data.validation)
    assert sum(len(batch["x1.trans"]) for batch in first) == 10
    assert all(
        torch.equal(a["x1.trans"], b["x1.trans"]) for a, b in zip(first, second, strict=True)
    )
    lengths = torch.cat([batch["res_mask"].sum(1) for batch in first])
    assert lengths.tolist() == sorted(lengths.tolist())


def test_no_chain_to_train_on_is_an_error(prepared):
    with pytest.raises(
        ValueError, match="has no chain in the split 'train' that passes the filters, got 30"
    ):
        BackboneDataModule(prepared, filters=[LengthFilter(300, 400)])
