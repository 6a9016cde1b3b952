"""The training loss of separation."""

from __future__ import annotations

import pytest
import torch
from rectiflow.flow import Flow
from rectiflow.interpolants import Interpolant
from rectiflow.predictions import Data, Velocity
from rectiflow.randomness import counter_generator
from rectiflow_audio import SeparationObjective, SeparationUNet, SpectrogramVae
from rectiflow_audio.flow import latent_flow
from rectiflow_audio.frontend import LogMel
from rectiflow_audio.heard import HeardError
from rectiflow_audio.masking import apply_mask, mel_ratio_mask
from rectiflow_audio.metrics import mel_log_spectral_distance
from rectiflow_audio.networks import PatchCodec, UNetConfig, VaeConfig

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
    with pytest.raises(
        ValueError, match="weight and floor must be positive and spectral not negative, got 0"
    ):
        HeardError(weight=0)


def test_waves_too_short_are_refused(parts, batch):
    with pytest.raises(ValueError, match="at least 32"):
        SeparationObjective(*parts).spectrogram(batch["target"][:, :2000])


def test_an_error_of_what_is_heard_needs_a_path_that_tells_the_data(parts):
    flow = Flow(path=Interpolant())
    with pytest.raises(
        ValueError, match="heard needs a path whose velocity tells the data, got Int"
    ):
        SeparationObjective(*parts, flow, heard=HeardError(weight=1.0))


def tones(frequency: float, n: int = 8000) -> torch.Tensor:
    return 0.2 * torch.sin(2 * torch.pi * frequency / 16_000 * torch.arange(n))


def test_the_error_that_is_heard_is_that_of_the_masked_wave():
    log_mel = LogMel()
    target, other = tones(440.0), 0.5 * tones(2500.0)
    mixture = target + other
    found = HeardError(weight=1.0, floor=1e-6)
    rows = [log_mel(wave) for wave in (target, mixture, torch.zeros_like(mixture))]
    errors = found(log_mel, torch.stack(rows), target.expand(3, -1), mixture.expand(3, -1)).exp()
    share = other.square().sum() / mixture.square().sum()
    assert errors[0] < 0.02 * share
    assert errors[1] == pytest.approx(float(share), rel=0.03)  # all of the other is left
    assert errors[2] == pytest.approx(float(1 - share), rel=0.03)  # all of the target is gone
    # Of the spectrum before it is made consistent, the wave's error is nearly the same.
    guess = log_mel(0.6 * target + 0.1 * other)[None]
    wave = apply_mask(mixture, mel_ratio_mask(guess, log_mel(mixture)[None], log_mel, 1.0)[0])
    by_wave = (wave - target).square().sum() / mixture.square().sum()
    by_spectrum = found(log_mel, guess, target[None], mixture[None]).exp()
    assert float(by_spectrum) == pytest.approx(float(by_wave), rel=0.05)
    both = HeardError(weight=1.0, floor=1e-6, spectral=0.5)
    told = both(log_mel, guess, target[None], mixture[None]) - by_spectrum.log()
    distance = mel_log_spectral_distance(log_mel(wave), log_mel(target))
    assert float(told) == pytest.approx(0.5 * float(distance), rel=0.1)


def test_silence_against_silence_has_a_slope():
    log_mel = LogMel()
    silent = torch.zeros(1, 8000)
    guess = log_mel(silent).requires_grad_()
    loss = HeardError(weight=1.0, spectral=1.0)(log_mel, guess, silent, silent)
    loss.sum().backward()
    assert loss.isfinite()
    assert guess.grad.isfinite().all()


def test_silence_that_is_wanted_has_a_floor():
    log_mel, mixture = LogMel(), tones(440.0)[None]
    silent = torch.full_like(log_mel(mixture), -20.0)
    found = HeardError(weight=1.0)(log_mel, silent, torch.zeros_like(mixture), mixture)
    assert float(found) == pytest.approx(torch.tensor(0.01).log().item(), abs=1e-3)


def test_what_is_heard_counts_with_its_weight(batch):
    torch.manual_seed(0)
    codec = PatchCodec(4)
    sizes = UNetConfig(16, 16, 8, (1, 2), (False, True), 1, 8, 6, groups=4)
    unet, flow = SeparationUNet(sizes), latent_flow(sigma_min=0.0)
    both = batch | {"other": batch["mixture"] - batch["target"]}
    both |= {"other_context": batch["context"] + 1, "other_mask": batch["context_mask"]}
    options = {"text_dropout": 0.0, "posterior_sample": False, "draws": 2}
    plain = SeparationObjective(unet, codec, flow, **options)
    heard = SeparationObjective(unet, codec, flow, heard=HeardError(weight=0.3), **options)
    terms = heard(both, counter_generator("test", 0))
    flow_loss = plain(both, counter_generator("test", 0))["loss"]
    torch.testing.assert_close(terms["flow"], flow_loss)
    torch.testing.assert_close(terms["loss"], flow_loss + 0.3 * terms["heard"])
    assert not terms["heard"].requires_grad
    unet.zero_grad()
    (terms["loss"] - flow_loss).backward()
    moved = [p for p in unet.parameters() if p.grad is not None and p.grad.any()]
    assert moved
    assert all(p.grad.isfinite().all() for p in moved)


class Oracle(torch.nn.Module):
    """Says the data, or the velocity that leads there."""

    def __init__(self, latents: torch.Tensor, says_data: bool) -> None:
        super().__init__()
        self.latents, self.says_data = latents, says_data

    def start(self, noise, cond):
        return noise

    def forward(self, x, t, cond):
        if self.says_data:
            return self.latents
        return (self.latents - x) / (1 - t).view(-1, 1, 1, 1)


@pytest.mark.parametrize("says_data", [False, True])
def test_what_is_heard_is_the_data_that_a_prediction_means(batch, says_data):
    codec, log_mel = PatchCodec(4), LogMel()
    mels = log_mel(batch["target"])[:, None, :32]
    oracle = Oracle(codec.to_latent(mels), says_data)
    flow = latent_flow(sigma_min=0.0, prediction=Data() if says_data else Velocity())
    heard = HeardError(weight=1.0)
    objective = SeparationObjective(oracle, codec, flow, text_dropout=0.0, heard=heard)
    terms = objective(batch, counter_generator("test", 0))
    expected = heard(log_mel, mels[:, 0], batch["target"], batch["mixture"]).mean()
    torch.testing.assert_close(terms["heard"], expected, rtol=1e-3, atol=1e-3)
