"""The official FlowSep vocoder, from the golden files: outputs, activations, gradients."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig, fold_weight_norm

sys.path.insert(0, str(Path(__file__).parent))
from flowsep_golden import (
    Recorder,
    assert_gradients,
    assert_near,
    cases,
    draw_weights,
    draw_weights_with_norm,
)

OUTPUTS, RMS, LOSS = 3e-5, 1e-5, 1e-5
CASES = cases("flowsep_vocoder_")
FIRST = "resblocks.0.activations.0"


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def vocoder(case):
    made = BigVgan(VocoderConfig.from_official(case.config)).eval()
    made.load_state_dict(draw_weights(case))
    return made


@pytest.fixture(scope="module")
def normed_state(case):
    return draw_weights_with_norm(case)


@pytest.fixture(scope="module")
def normed(case, normed_state):
    """Return the vocoder with weight norm, and its parameters by the official names."""
    made = BigVgan(VocoderConfig.from_official(case.config)).eval()
    made.apply_weight_norm()
    keys = {name: official(name) for name in made.state_dict()}
    made.load_state_dict({name: normed_state[key] for name, key in keys.items()})
    return made, {keys[name]: p for name, p in made.named_parameters()}


def official(name):
    """Return the authors' name of a tensor of a vocoder with torch's weight norm."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace(
        "parametrizations.weight.original1", "weight_v"
    )


def test_the_released_sizes_are_the_default():
    vocoder = BigVgan()
    assert sum(p.numel() for p in vocoder.parameters()) == 13_953_825
    assert len(vocoder.state_dict()) == 558


def test_names_and_shapes_are_the_official_ones(case, vocoder):
    shapes = {name: list(value.shape) for name, value in vocoder.state_dict().items()}
    assert shapes == case.about["state_dict"]


def test_the_filters_are_the_official_ones(case):
    fresh = BigVgan(VocoderConfig.from_official(case.config)).state_dict()
    for name, value in fresh.items():
        if name.endswith(".filter"):
            torch.testing.assert_close(value.view(-1), case["const.filter"], rtol=0, atol=1e-7)


@torch.no_grad()
def test_wave_and_every_activation(case, vocoder):
    modules = dict(vocoder.named_modules())
    named = {name: modules[name] for name in {*case.about["act_rms"], *case.starting("act.")}}
    with Recorder(named) as seen:
        wave = vocoder.raw(case["in.mel"])
    assert wave.shape[1] == case.about["samples_out"]
    for name, wanted in case.starting("act.").items():
        found = seen[name].transpose(1, 2)[:1, : wanted.shape[1], : wanted.shape[2]]
        assert_near(found, wanted, OUTPUTS, name)
    for name, wanted in case.about["act_rms"].items():
        rms = seen[name].double().square().mean().sqrt().item()
        assert rms == pytest.approx(wanted, rel=RMS), name
    assert_near(wave[:, None], case["out.wav"], OUTPUTS)
    cut = vocoder(case["in.mel"])
    assert torch.equal(cut, wave[:, : vocoder.sizes.hop * case["in.mel"].shape[2]])


@pytest.mark.parametrize("learns", [False, True], ids=["products", "taps"])
def test_anti_aliased_activation(case, vocoder, learns):
    activation = vocoder.get_submodule(FIRST)
    given = case["in.act0"].transpose(1, 2)
    with torch.set_grad_enabled(learns):
        found = activation(given).transpose(1, 2)
        single = activation(given[:, :1]).transpose(1, 2)
        doubled = torch.stack(activation.up(given), dim=2).flatten(1, 2).transpose(1, 2)
    assert found.requires_grad == learns
    assert_near(found.detach(), case["out.act0"], OUTPUTS)
    assert_near(single.detach(), case["out.act0_first_sample_only"], OUTPUTS)
    assert_near(doubled[:, :8].detach(), case["out.act0_upsampled_first8"], OUTPUTS)


def test_gradients(case, vocoder):
    wanted, given = case.about["gradients"], case["in.mel"].clone().requires_grad_()
    vocoder.zero_grad(set_to_none=True)
    loss = (vocoder.raw(given)[:, None] * case["in.loss_weight"]).mean()
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, dict(vocoder.named_parameters()), {"in.mel": given})


def test_wave_of_folded_weight_norm(case, vocoder, normed_state):
    folded = fold_weight_norm(normed_state)
    assert folded.keys() == vocoder.state_dict().keys()
    made = BigVgan(vocoder.sizes)
    made.load_state_dict(folded)
    wanted = case["out.wav_weight_norm"]
    with torch.no_grad():
        assert_near(made.raw(case["in.mel"])[:, None, : wanted.shape[2]], wanted, OUTPUTS)


def test_gradients_of_lengths_and_directions(case, normed):
    vocoder, parameters = normed
    wanted, given = case.about["gradients_weight_norm"], case["in.mel"].clone().requires_grad_()
    wave = vocoder.raw(given)[:, None]
    reference = case["out.wav_weight_norm"]
    assert_near(wave.detach()[..., : reference.shape[2]], reference, OUTPUTS)
    loss = (wave * case["in.loss_weight"]).mean()
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, parameters, {"in.mel": given})
