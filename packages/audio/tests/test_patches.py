"""The codec without weights, and the flow that starts at the mixture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from rectiflow.randomness import counter_generator
from rectiflow_audio import SeparationObjective, SeparationPipeline, SeparationUNet
from rectiflow_audio.networks import PatchCodec, UNetConfig

SIZES = UNetConfig(
    *(16, 16, 8, (1, 2), (False, True), 1, 8, 6, 4),
    has_sentence=True,
    bands=16,
    is_relative=True,
    start_noise=0.3,
)


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return SeparationUNet(SIZES)


def condition(b: int = 2):
    generator = torch.Generator().manual_seed(0)
    return {
        "mixture": torch.rand(b, 16, 16, 16, generator=generator),
        "context": torch.randn(b, 3, 6, generator=generator),
        "context_mask": torch.tensor([[1.0, 1, 0]]).repeat(b, 1),
    }


def test_patches_lose_nothing_and_decode_negative_magnitudes_as_silence():
    codec = PatchCodec(scale_factor=5.0)
    mel = torch.linspace(-11.5, 2.0, 32 * 64).view(1, 1, 32, 64)
    latents = codec.to_latent(mel)
    assert latents.shape == (1, 16, 8, 16)
    torch.testing.assert_close(codec.from_latent(latents), mel, atol=1e-3, rtol=0)
    assert float(codec.decode(-latents).max()) == pytest.approx(math.log(1e-5), abs=1e-4)


def test_a_mean_of_latents_is_a_mean_of_compressed_magnitudes():
    codec = PatchCodec(exponent=0.5)
    loud, soft = (torch.full((1, 1, 4, 4), math.log(size)) for size in (4.0, 1.0))
    mean = codec.decode((codec.encode(loud).mean + codec.encode(soft).mean) / 2)
    torch.testing.assert_close(mean.exp(), torch.full_like(mean, 1.5**2))


def test_the_flow_starts_at_the_mixture_and_a_little_noise(unet):
    cond, noise = condition(), torch.randn(2, 16, 16, 16)
    torch.testing.assert_close(unet.start(noise, cond), cond["mixture"] + 0.3 * noise)
    plain = SeparationUNet(UNetConfig(8, 8, 8, (1, 2), (False, True), 1, 8, 6, 4))
    assert plain.start(noise, cond) is noise


SPREAD = replace(SIZES, spread=0.9)


def told(sizes: UNetConfig):
    """A network whose last layer says something; the same at every call but for its sizes."""
    torch.manual_seed(0)
    network = SeparationUNet(sizes)
    for parameter in network.unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def test_with_a_spread_the_first_step_is_a_mask_networks_answer():
    cond, noise = condition(), torch.randn(2, 16, 16, 16)
    flow, mask = told(SPREAD), told(replace(SIZES, start_noise=0.0))
    x0, begin = flow.start(noise, cond), torch.zeros(2)
    with torch.no_grad():
        share = mask(cond["mixture"], begin, cond)
        assert share.abs().max() > 1e-3
        torch.testing.assert_close(x0 + flow(x0, begin, cond), cond["mixture"] + share)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0])
def test_with_a_spread_a_network_that_says_nothing_tells_what_is_expected_of_a_state(t):
    network = SeparationUNet(replace(SPREAD, is_relative=False))
    asked = []
    network.unet.forward = lambda x, *_: asked.append(x) or torch.zeros_like(x[:, :16])
    generator = torch.Generator().manual_seed(0)
    shape = (2, 16, 160, 160)
    mixture, z, r = (torch.randn(shape, generator=generator) for _ in range(3))
    cond = {**condition(), "mixture": mixture}
    target = mixture + 0.9 * r
    x0 = network.start(z, cond)
    x = (1 - t) * x0 + t * target
    v = network(x, torch.full((2,), t), cond)
    # What is left over knows nothing of the state: the two are not correlated.
    off = x - mixture
    assert float(((target - x0 - v) * off).mean()) == pytest.approx(0, abs=2e-3)
    data = asked[0][:, :16]
    assert float(((target - data) * off).mean()) == pytest.approx(0, abs=2e-3)
    torch.testing.assert_close(x + (1 - t) * v, data)  # two tellings of one thing


@pytest.mark.parametrize("given", [{"spread": 0.9}, {"spread": 0.0, "start_noise": 0.3}])
def test_a_spread_needs_noise_at_the_mixture(given):
    with pytest.raises(ValueError, match="spread needs a start at the mixture with noise"):
        UNetConfig(**given)


def test_velocities_are_shares_of_the_mixture(unet):
    cond = condition()
    cond["mixture"][:, :, :8] = 0
    v = unet(torch.randn(2, 16, 16, 16), torch.zeros(2), cond)
    assert not v[:, :, :8].any()
    assert v[:, :, 8:].any()


def test_the_sentence_is_the_mean_of_what_counts(unet):
    cond, x = condition(), torch.randn(2, 16, 16, 16)
    torch.nn.init.normal_(unet.unet.sentence.weight)
    told = {**cond, "text_keys": torch.zeros_like(unet.unet.text_keys(cond["context"]))}
    before = unet(x, torch.zeros(2), told)
    hidden = {**told, "context": cond["context"].clone()}
    hidden["context"][:, 2] = 7.0  # not attended to
    torch.testing.assert_close(unet(x, torch.zeros(2), hidden), before)
    longer = {**told, "context": 3 * cond["context"]}  # its length does not count
    torch.testing.assert_close(unet(x, torch.zeros(2), longer), before)
    other = {**told, "context": -cond["context"]}
    assert (unet(x, torch.zeros(2), other) - before).abs().max() > 1e-3


def batch(**more):
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "target": 0.1 * draw(2, 5200),
        "mixture": 0.1 * draw(2, 5200),
        "context": draw(2, 3, 6),
        "context_mask": torch.ones(2, 3),
        "null_context": torch.zeros(2, 3, 6),
        **more,
    }


def test_both_sounds_of_a_mixture_are_asked_for(unet):
    objective = SeparationObjective(unet, PatchCodec(), text_dropout=0.0, posterior_sample=False)
    other = 0.1 * torch.randn(2, 5200)
    told = batch(other=other, other_context=torch.ones(2, 3, 6), other_mask=torch.ones(2, 3))
    x1, cond = objective.encode(told, counter_generator("test", 0))
    assert len(x1) == 4
    torch.testing.assert_close(x1[2:], objective.vae.to_latent(objective.spectrogram(other)))
    torch.testing.assert_close(cond["mixture"][:2], cond["mixture"][2:])
    assert (cond["context"][2:] == 1).all()
    objective(told, counter_generator("test", 0))["loss"].backward()


def test_text_noise_moves_all_states_of_a_query_alike(unet):
    objective = SeparationObjective(unet, PatchCodec(), text_dropout=0.0, text_noise=0.5)
    told = batch()
    context, _ = objective.query(told, counter_generator("test", 0))
    moved = context - told["context"]
    torch.testing.assert_close(moved[:, 0], moved[:, 1])
    sizes = moved[:, 0].norm(dim=-1) / told["context"].mean(1).norm(dim=-1)
    assert (sizes > 0.15).all()
    assert (sizes < 1.2).all()


def test_a_pipeline_of_patches_is_stored_and_loaded(unet, tmp_path):
    pipe = SeparationPipeline(unet, PatchCodec(scale_factor=5.0))
    pipe.save_pretrained(tmp_path)
    back = SeparationPipeline.from_pretrained(tmp_path)
    assert isinstance(back.vae, PatchCodec)
    assert float(back.vae.scale_factor) == 5.0
    assert back.unet.sizes == SIZES
