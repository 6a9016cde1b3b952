"""Data of a training run: what a step sees depends on the step alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rectiflow_audio.data import Augment, MixtureRules
from rectiflow_audio.data.datamodule import SeparationData, WaveformData
from rectiflow_audio.data.synthetic import KINDS, prepare_synthetic


class WordEncoder:
    """Stands in for the text encoder: one state a text."""

    hash = "words"

    def encode(self, texts, *, truncate=False):
        states = torch.tensor([[[float(len(t)), float(ord(t[0]))]] for t in texts])
        return SimpleNamespace(states=states, mask=torch.ones(len(texts), 1))

    def null(self, batch):
        return SimpleNamespace(states=torch.zeros(batch, 1, 2), mask=torch.ones(batch, 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "sounds"
    return prepare_synthetic(out, num=6, seconds=0.5, encode=WordEncoder())


def stream(data, start: int = 0, count: int = 5, rank: int = 0, world_size: int = 1):
    """The batches a trainer would see from a step on."""
    module = SimpleNamespace(batches_seen=start, items_seen=None)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, lightning_module=module)
    batches = iter(data.train_dataloader())
    return [next(batches) for _ in range(count)]


def separation(folder: Path, **options) -> SeparationData:
    settings = {"batch_size": 4, "window_seconds": 0.4, "augment": Augment(), **options}
    return SeparationData(folder, **settings)


def test_batches_have_the_agreed_form(folder):
    batch = stream(separation(folder), count=1)[0]
    shapes = {k: tuple(v.shape) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        "target": (4, 6400),
        "mixture": (4, 6400),
        "context": (4, 1, 2),
        "context_mask": (4, 1),
        "null_context": (4, 1, 2),
        "snr": (4,),
        "nothing": (4,),
    }
    assert batch["target"].dtype == batch["snr"].dtype == torch.float32
    assert set(batch["caption"]) <= {caption for _, caption in KINDS.values()}
    assert torch.allclose(batch["mixture"].abs().amax(1), torch.tensor(0.5), atol=1e-5)
    assert torch.equal(
        batch["context"][:, 0, 0], torch.tensor([float(len(c)) for c in batch["caption"]])
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_batches_it_would_have_seen(folder, workers):
    whole = stream(separation(folder), 0, 5)
    rest = stream(separation(folder, num_workers=workers), 3, 2)
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a["mixture"], b["mixture"])
        assert a["caption"] == b["caption"]


def test_no_two_steps_and_no_two_ranks_see_the_same_mixture(folder):
    waves = torch.cat([b["mixture"] for b in stream(separation(folder), 0, 6)])
    waves = torch.cat([waves, *(b["mixture"] for b in stream(separation(folder, seed=1), 0, 2))])
    assert len(waves.unique(dim=0)) == len(waves)
    ranks = [stream(separation(folder), 0, 3, rank, 2) for rank in range(2)]
    both = torch.cat([b["mixture"] for batches in ranks for b in batches])
    assert len(both.unique(dim=0)) == len(both)


def test_batches_may_be_larger_than_the_data(folder):
    batch = stream(separation(folder, batch_size=16), count=1)[0]
    assert len(batch["mixture"].unique(dim=0)) == 16


def test_the_fixed_mixtures_are_fixed(folder):
    data = separation(folder, batch_size=2)
    first, second = list(data.val_dataloader()), list(data.val_dataloader())
    assert len(first) == len(data.val_dataloader()) == 2
    assert [len(batch["target"]) for batch in first] == [2, 1]
    other = list(separation(folder, batch_size=2, augment=None, seed=9).val_dataloader())
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a["mixture"], b["mixture"])
        assert torch.equal(a["mixture"], c["mixture"])
        rest = (a["mixture"] - a["target"]).square().mean(1)
        assert torch.allclose(a["target"].square().mean(1), rest, rtol=1e-3)  # 0 dB
    louder = list(separation(folder, batch_size=2, validation_snr_db=6.0).val_dataloader())
    assert not torch.equal(louder[0]["mixture"], first[0]["mixture"])


def test_rules_and_wordings_reach_the_training_mixtures(folder, tmp_path):
    data = separation(folder, rules=MixtureRules((4.0, 4.0)))
    assert torch.equal(stream(data, count=1)[0]["snr"], torch.full((4,), 4.0))
    path = tmp_path / "wordings.csv"
    path.write_text("label,caption\ntone,a beep\n", encoding="utf-8")
    with pytest.raises(ValueError, match="1 captions have no embedding, the first is 'a beep'"):
        separation(folder, wordings=path)


def test_single_clips(folder):
    data = WaveformData(folder, 4, window_seconds=0.4, augment=Augment(), quietest_db=-20)
    batches = stream(data, 0, 4)
    assert all(batch["target"].shape == (4, 6400) for batch in batches)
    assert torch.equal(stream(data, 2, 1)[0]["target"], batches[2]["target"])
    held_out = list(data.val_dataloader())
    assert sum(len(batch["target"]) for batch in held_out) == 3
    assert torch.equal(held_out[0]["target"], next(iter(data.val_dataloader()))["target"])
