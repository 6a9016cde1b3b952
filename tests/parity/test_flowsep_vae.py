"""The official FlowSep autoencoder, from the golden files: outputs, activations, gradients."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow_audio.networks import Posterior, SpectrogramVae, VaeConfig
from rectiflow_audio.networks.keys import vae_keys, vae_name
from rectiflow_audio.weights import vae_from_official

sys.path.insert(0, str(Path(__file__).parent))
from flowsep_golden import Recorder, assert_gradients, assert_near, cases, draw_weights

OUTPUTS, RMS, LOSS = 3e-5, 1e-5, 1e-5
CASES = cases("flowsep_vae_")


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def vae(case):
    return vae_from_official(draw_weights(case), VaeConfig.from_official(case.config))


@pytest.fixture(scope="module")
def modules(vae):
    """Return our modules by the official names."""
    return {
        vae_name(name, vae.sizes): module
        for name, module in vae.named_modules()
        if name.startswith("autoencoder.")
    }


@pytest.fixture
def parameters(vae):
    """Return our parameters by the official names, without gradients."""
    vae.zero_grad(set_to_none=True)
    keys = vae_keys(vae)
    return {keys[name]: parameter for name, parameter in vae.named_parameters()}


def test_the_released_sizes_are_the_default():
    with torch.device("meta"):
        vae = SpectrogramVae()
    assert sum(p.numel() for p in vae.parameters()) == 55_376_873
    assert len(vae_keys(vae)) == 204


def test_every_official_tensor_has_a_name_of_ours(case, vae):
    keys, own = vae_keys(vae), vae.state_dict()
    assert sorted(keys.values()) == sorted(case.about["state_dict"])
    for ours, official in keys.items():
        assert own[ours].numel() == torch.Size(case.about["state_dict"][official]).numel()


@torch.no_grad()
def test_posterior_and_decodings(case, vae, modules):
    named = {name: modules[name] for name in {*case.about["act_rms"], *case.starting("act.")}}
    with Recorder(named) as seen:
        posterior = vae.encode(case["in.log_mel"])
        decoded = vae.decode(posterior.mean)
    sample = posterior.sample(noise=case["in.eps"])
    moments = vae.autoencoder.quant_conv(vae.autoencoder.encoder(case["in.log_mel"]))
    found = {
        "moments": moments,
        "mean": posterior.mean,
        "std": posterior.std,
        "sample": sample,
        "kl": posterior.kl(),
        "decoded_mode": decoded,
        "decoded_sample": vae.decode(sample),
    }
    for name, value in found.items():
        assert_near(value, case[f"out.{name}"], OUTPUTS, name)
    for name, wanted in case.starting("act.").items():
        assert_near(seen[name][:1, :4, :16], wanted, OUTPUTS, name)
    for name, wanted in case.about["act_rms"].items():
        rms = seen[name].double().square().mean().sqrt().item()
        assert rms == pytest.approx(wanted, rel=RMS), name


def test_log_variance_is_clamped(case):
    mean, logvar = case["in.moments_wide"].chunk(2, dim=1)
    assert (logvar.min() < -30) or (logvar.max() > 20)
    posterior = Posterior(mean, logvar.clamp(-30, 20))
    assert_near(posterior.std, case["out.std_wide"], OUTPUTS)
    assert_near(posterior.kl(), case["out.kl_wide"], OUTPUTS)


def test_gradients_end_to_end(case, vae, parameters):
    wanted, given = case.about["gradients"], case["in.log_mel"].clone().requires_grad_()
    sample = vae.encode(given).sample(noise=case["in.eps"])
    loss = (vae.decode(sample) * case["in.loss_weight"]).mean()
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, parameters, {"in.log_mel": given})


def test_gradients_of_the_divergence(case, vae, parameters):
    wanted = case.about["gradients_kl"]
    loss = vae.encode(case["in.log_mel"]).kl().mean()
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, parameters, {})
