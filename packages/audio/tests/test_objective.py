"""The training loss of separation."""

from __future__ import annotations

import pytest
import torch
from rectiflow.randomness import counter_generator
from rectiflow_audio import SeparationObjective, SeparationUNet, SpectrogramVae
from rectiflow_audio.networks import UNetConfig, VaeConfig

SIZES = UNetConfig(2, 2, 8, (1, 2), (False, True), 1, 8, 6, groups=4)


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    vae = SpectrogramVae(
        VaeConfig(channels=4, multipliers=(1, 1, 2), blocks=1, latent_channels=2, groups=2), 2.0
    )
    return SeparationUNet(SIZES), vae


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "target": 0.1 * draw(3, 5200),
        "mixture": 0.1 * draw(3, 5200),
        "context": draw(3, 4, 6),
        "context_mask": torch.tensor([[1.0, 1, 0, 0]]).repeat(3, 1),
        "null_context": torch.zeros(1, 4, 6),
    }


def test_loss_is_the_published_one(parts, batch):
    unet, vae = parts
    objective = SeparationObjective(unet, vae, text_dropout=0.0, posterior_sample=False)
    found = objective(batch, counter_generator("test", 0))["loss"]
    x1 = vae.to_latent(objective.spectrogram(batch["target"]))
    m = vae.to_latent(objective.spectrogram(batch["mixture"]))
    cond = {"mixture": m, "context": batch["context"], "context_mask": batch["context_mask"]}
    out = objective.flow.loss(unet, x1, cond, generator=counter_generator("test", 0))
    torch.testing.assert_close(found, out.loss)
    t = out.t.view(-1, 1, 1, 1)
    e = (out.x_t - t * x1) / (1 - (1 - 1e-4) * t)
    assert abs(e.std() - 1) < 0.1
    wanted = (unet(out.x_t, out.t, cond) - (x1 - (1 - 1e-4) * e)).square().mean()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_only_the_network_learns(parts, batch):
    unet, vae = parts
    objective = SeparationObjective(unet, vae)
    objective.train()
    assert not vae.training
    objective(batch, counter_generator("test", 0))["loss"].backward()
    assert all(p.grad is None for p in vae.parameters())
    assert any(p.grad is not None for p in unet.parameters())


def test_dropped_queries_see_every_position_of_the_empty_one(parts, batch):
    objective = SeparationObjective(*parts, text_dropout=1.0)
    context, mask = objective.query(batch, counter_generator("test", 0))
    assert not context.any()
    assert mask.all()
    kept, mask = SeparationObjective(*parts, text_dropout=0.0).query(batch, torch.Generator())
    assert kept is batch["context"]
    assert mask is batch["context_mask"]


def test_dropout_is_per_sample_or_per_batch(parts, batch):
    many = {name: value.repeat(40, *[1] * (value.ndim - 1)) for name, value in batch.items()}
    many["null_context"] = batch["null_context"]
    single = SeparationObjective(*parts, text_dropout=0.5)
    dropped = ~single.query(many, counter_generator("test", 1))[0].flatten(1).any(1)
    assert 0.3 < dropped.float().mean() < 0.7
    whole = SeparationObjective(*parts, text_dropout=0.5, per_batch=True)
    shares = {
        float(
            (~whole.query(many, counter_generator("test", i))[0].flatten(1).any(1)).float().mean()
        )
        for i in range(12)
    }
    assert shares == {0.0, 1.0}


def test_draws_share_one_encoding(parts, batch):
    objective = SeparationObjective(*parts, draws=3, text_dropout=0.0)
    x1, cond = objective.encode(batch, counter_generator("test", 0))
    assert len(x1) == len(cond["mixture"]) == len(cond["context"]) == 9
    torch.testing.assert_close(x1[0], x1[2])
    torch.testing.assert_close(cond["context"][3], cond["context"][5])


@pytest.mark.parametrize("options", [{"text_dropout": 1.5}, {"draws": 0}], ids=str)
def test_bad_options_are_refused(parts, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SeparationObjective(*parts, **options)


def test_waves_too_short_are_refused(parts, batch):
    with pytest.raises(ValueError, match="at least 32"):
        SeparationObjective(*parts).spectrogram(batch["target"][:, :2000])
