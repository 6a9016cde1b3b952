"""The official FlowSep UNet, flow loss and sampler, from the golden files."""

import re
import sys
from pathlib import Path

import pytest
import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow_audio.flow import condition, latent_flow
from rectiflow_audio.networks import SeparationUNet, UNetConfig
from rectiflow_audio.networks.keys import unet_keys, unet_name
from rectiflow_audio.networks.unet import time_features
from rectiflow_audio.weights import unet_from_official

sys.path.insert(0, str(Path(__file__).parent))
from flowsep_golden import Recorder, assert_gradients, assert_near, cases, draw_weights

OUTPUTS, RMS, LOSS = 3e-5, 1e-5, 1e-5


@pytest.fixture(scope="module", params=cases("flowsep_unet_"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def unet(case):
    return unet_from_official(
        draw_weights(case), UNetConfig.from_official(case.config["unet_config"])
    )


@pytest.fixture(scope="module")
def cond(case):
    return condition(case["in.mixture_latent"], case["in.context"], case["in.context_mask"])


@pytest.fixture
def parameters(case, unet, request):
    """Return our parameters by the official names, without gradients."""
    if case.is_large and not request.config.getoption("--slow"):
        pytest.skip("gradients of the released sizes: run with --slow")
    unet.zero_grad(set_to_none=True)
    keys = unet_keys(unet)
    return {keys[name]: parameter for name, parameter in unet.named_parameters()}


def blocks(unet):
    """Return our modules by the names of the official blocks and of their parts."""
    parts = {
        unet_name(ours, unet.sizes): module
        for ours, module in unet.named_modules()
        if re.fullmatch(r"unet\.(conv_in|(mid_block|\w+_blocks\.\d+)\.\w+\.\d+)", ours)
    }
    named = {}
    for name in sorted(parts, key=lambda name: int(name.split(".")[-1])):
        named[name] = named[name.rpartition(".")[0]] = parts[name]  # the last part ends a block
    return named


def test_the_released_sizes_are_the_default():
    with torch.device("meta"):
        unet = SeparationUNet()
    assert sum(p.numel() for p in unet.parameters()) == 265_549_456
    assert len(unet_keys(unet)) == 1104


def test_every_official_tensor_has_a_name_of_ours(case, unet):
    own = unet.state_dict()
    found = {official: list(own[ours].shape) for ours, official in unet_keys(unet).items()}
    assert found == case.about["state_dict"]
    assert unet.sizes.latent_channels == case.config["latent_channels"]


def test_embedding_of_time(case, unet):
    features = time_features(case["in.t"], unet.sizes.channels)
    assert_near(features, case["out.timestep_embedding"], OUTPUTS)
    with torch.no_grad():
        assert_near(unet.unet.time_embedding(features), case["out.time_embed"], OUTPUTS)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_velocity_and_activations(case, unet, cond, layout):
    unet.to(memory_format=layout)
    x = case["in.x"].contiguous(memory_format=layout)
    named = blocks(unet)
    watched = {name: named[name] for name in case.about["act_rms"]}
    with Recorder(watched | {"out": unet.unet.conv_out}) as seen:
        v = unet(x, case["in.t"], cond)
    latents = unet.sizes.latent_channels
    assert_near(seen["out"], case["out.v"], OUTPUTS)
    assert_near(v, case["out.v"][:, :latents], OUTPUTS)
    for name, wanted in case.starting("act.").items():
        assert_near(seen[name][:1, :4], wanted, OUTPUTS, name)
    for name, wanted in case.about["act_rms"].items():
        rms = seen[name].double().square().mean().sqrt().item()
        assert rms == pytest.approx(wanted, rel=RMS), name
    unet.to(memory_format=torch.contiguous_format)


@torch.no_grad()
def test_every_token_attended(case, unet, cond):
    cond = {**cond, "context_mask": torch.ones_like(cond["context_mask"])}
    assert_near(unet(case["in.x"], case["in.t"], cond), case["out.v_mask_all_ones"], OUTPUTS)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 5])
def test_euler_trajectories(case, unet, cond, steps):
    cond = unet.with_text_keys(cond)
    field = latent_flow(sigma_min=case.config["sigma_min"]).velocity(unet, cond)
    found = integrate(field, case["in.x"], plan(uniform(steps), Euler()))
    assert_near(found, case[f"out.euler_{steps}"], OUTPUTS)


@torch.no_grad()
def test_flow_loss(case, unet, cond):
    found = flow_loss(case, unet, cond)
    assert found.loss.item() == pytest.approx(case["out.loss"].item(), abs=LOSS)
    assert_near(found.per_sample, case["out.loss_per_sample"], OUTPUTS)


def test_gradients_of_the_velocity(case, unet, cond, parameters):
    wanted = case.about["gradients"]
    given = {
        name: case[name].clone().requires_grad_()
        for name in ("in.x", "in.mixture_latent", "in.context")
    }
    cond = condition(given["in.mixture_latent"], given["in.context"], cond["context_mask"])
    loss = (unet(given["in.x"], case["in.t"], cond) * case["in.loss_weight"]).mean()
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, parameters, given)


def test_gradients_of_the_flow_loss(case, unet, cond, parameters):
    wanted = case.about["gradients_flow_loss"]
    loss = flow_loss(case, unet, cond).loss
    assert loss.item() == pytest.approx(wanted["loss_value"], abs=LOSS)
    loss.backward()
    assert_gradients(wanted, parameters, {})
    assert not parameters["out.2.weight"].grad[unet.sizes.latent_channels :].any()


def flow_loss(case, unet, cond):
    flow = latent_flow(sigma_min=case.config["sigma_min"])
    return flow.loss(unet, case["in.x1"], cond, x0=case["in.noise"], t=case["in.t"])
