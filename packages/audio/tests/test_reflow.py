"""Pairs of noise and latents: what they depend on, and training on them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from rectiflow.rectify import OneStepDistillation, PairStore, generate_pairs
from rectiflow.rectify.pair_data import PairData
from rectiflow.storage.records import state_of
from rectiflow_audio import (
    SeparationObjective,
    SeparationPipeline,
    SeparationSettings,
    SeparationUNet,
    SpectrogramVae,
)
from rectiflow_audio.networks import UNetConfig, VaeConfig
from rectiflow_audio.reflow import inverted_pair_sampler, pair_sampler
from torch.utils.data import default_collate


class Mixtures:
    """Two numbered mixtures of noise; the draw changes them."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        row, draw = index
        generator = torch.Generator().manual_seed(10 * draw + row)
        target, other = 0.1 * torch.randn(2, 5200, generator=generator)
        return {
            "target": target,
            "mixture": target + other,
            "context": torch.randn(1, 6, generator=generator),
            "context_mask": torch.ones(1),
            "null_context": torch.zeros(1, 6),
        }


@pytest.fixture(scope="module")
def pipe() -> SeparationPipeline:
    torch.manual_seed(0)
    sizes = UNetConfig(2, 2, 8, (1, 2), (False, True), 1, 8, 6, groups=4)
    vae = SpectrogramVae(
        VaeConfig(channels=4, multipliers=(1, 1, 2), blocks=1, latent_channels=2, groups=2)
    )
    return SeparationPipeline(SeparationUNet(sizes), vae, settings=SeparationSettings())


@pytest.fixture
def objective(pipe) -> SeparationObjective:
    return SeparationObjective(pipe.unet, pipe.vae)


def test_pairs_depend_on_seed_and_number_alone(pipe):
    sample = pair_sampler(pipe, Mixtures(), steps=2, seed=1)
    together = sample([0, 1, 2, 3])
    alone = sample([3])[0]
    torch.testing.assert_close(together[3].x1, alone.x1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[3].cond["mixture"], alone.cond["mixture"])
    torch.testing.assert_close(together[3].x0, alone.x0)
    other = pair_sampler(pipe, Mixtures(), steps=2, seed=2)([3])[0]
    assert (other.x0 - alone.x0).abs().max() > 0.1
    assert (together[0].cond["context"] - together[2].cond["context"]).abs().max() > 0.1


def test_the_end_is_where_the_flow_leads(pipe):
    pair = pair_sampler(pipe, Mixtures(), steps=1, seed=1)([0])[0]
    cond = {name: value[None] for name, value in pair.cond.items()}
    with torch.no_grad():
        v = pipe.unet(pair.x0[None], torch.zeros(1), cond)[0]
    torch.testing.assert_close(pair.x1, pair.x0 + v, atol=1e-5, rtol=1e-5)


def test_guidance_and_dtype_reach_the_pairs(pipe, monkeypatch):
    plain = pair_sampler(pipe, Mixtures(), steps=2, seed=1)([0])[0]
    told = pair_sampler(pipe, Mixtures(), steps=2, seed=1, guidance=3.0)([0])[0]
    monkeypatch.setattr(pipe, "settings", replace(pipe.settings, guidance=3.0))
    own = pair_sampler(pipe, Mixtures(), steps=2, seed=1)([0])[0]
    torch.testing.assert_close(own.x1, told.x1)
    assert (own.x1 - plain.x1).abs().max() > 1e-4
    monkeypatch.setattr(pipe, "dtype", torch.bfloat16)
    low = pair_sampler(pipe, Mixtures(), steps=2, seed=1)([0])[0]
    assert low.x1.dtype == torch.float32
    assert 0 < (low.x1 - own.x1).abs().max() < 0.5


def test_inverted_pairs_end_at_the_data(pipe, objective, monkeypatch):
    monkeypatch.setattr(pipe, "settings", replace(pipe.settings, posterior_sample=False))
    pair = inverted_pair_sampler(pipe, Mixtures(), steps=4, seed=1)([1])[0]
    target = Mixtures()[1, 0]["target"][None]
    true = objective.vae.to_latent(objective.spectrogram(target))[0].detach()
    torch.testing.assert_close(pair.x1, true, atol=1e-5, rtol=1e-5)
    assert (pair.x0 - pair.x1).abs().max() > 1e-3


def test_stored_pairs_train_both_ways(pipe, objective, tmp_path):
    make = partial(generate_pairs, batch=3, seed=0, progress=False)
    make(pair_sampler(pipe, Mixtures(), steps=2, seed=0), tmp_path / "pairs", num=7)
    make(inverted_pair_sampler(pipe, Mixtures(), steps=2, seed=0), tmp_path / "real", num=2)
    data = PairData(tmp_path / "pairs", 2, real=tmp_path / "real", hold_out_every=4)
    assert len(PairStore(tmp_path / "pairs")) == 7
    rows = next(data.batches.batches(0))
    batch = default_collate([data.dataset[index] for index in rows])
    assert set(batch) >= {"x0", "x1", "cond.mixture", "cond.context", "cond.context_mask"}
    generator = torch.Generator().manual_seed(0)
    loss = objective(batch, generator)["loss"]
    loss.backward()
    assert loss > 0
    distilled = OneStepDistillation(objective.network)(batch, generator)["loss"]
    with torch.no_grad():
        v = objective.network(batch["x0"], torch.zeros(2), state_of(batch, "cond"))
        want = (batch["x0"] + v - batch["x1"]).square().mean()
    torch.testing.assert_close(distilled, want)


def test_holding_every_pair_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match="hold_out_every must be at least 2"):
        PairData(tmp_path, hold_out_every=1)
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        PairData(tmp_path)
