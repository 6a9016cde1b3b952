"""The official TripoSG flow network, from the golden files."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow.grids import uniform
from rectiflow.guidance import batched_cfg
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow_shape.networks import TripoSGDiT
from rectiflow_shape.networks.dit import sinusoid
from rectiflow_shape.weights import dit_from_official, expected, to_official

sys.path.insert(0, str(Path(__file__).parent))
from triposg_golden import Recorder, cases, draw_weights, rms


@pytest.fixture(scope="module", params=cases("triposg_dit_"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def official(case):
    return draw_weights(case.about, expected(case.about["config"], is_vae=False))


@pytest.fixture(scope="module")
def dit(case, official):
    return dit_from_official(official, case.about["config"])


def scales(case):
    told = case.about["attention_kwargs"] or {}
    return told.get("cross_attention_scale", 1.0), told.get("cross_attention_2_scale", 1.0)


def test_the_released_sizes_are_the_default():
    with torch.device("meta"):
        dit = TripoSGDiT()
        scribble = TripoSGDiT(context=768, context_2=1024)
    assert (len(to_official(dit)), len(to_official(scribble))) == (554, 743)
    assert sum(p.numel() for p in dit.parameters()) == 1_439_556_160
    assert sum(p.numel() for p in scribble.parameters()) == 1_681_911_616


def test_official_tensors_come_back_bit_for_bit(official, dit):
    back = to_official(dit)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], value) for name, value in official.items())


def test_velocity_activations_and_gradients(case, dit):
    dit.requires_grad_(False)
    wanted = case.about["gradients"]
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_(is_compared(name, wanted["parameters"]))
    given = {name: case[name].clone().requires_grad_() for name in wanted["inputs"]}
    level = case["in/timestep"]
    contexts = [given[n] for n in ("in/context", "in/context_2") if n in given]
    case.check("out/time_sinusoid", sinusoid(level, dit.time_proj.width))
    case.check("out/time_token", dit.time_proj(level).detach())
    with Recorder(dit.blocks) as seen:
        found = dit.at(given["in/latents"], level, *contexts, scales=scales(case))
    case.check("out/velocity", found.detach())
    case.check("out/act_rms", rms(seen))
    for name, wanted_activation in case.starting("act/blocks.").items():
        stored = wanted_activation.shape[1]
        case.check(f"act/blocks.{name}", seen[int(name)][:, :stored])
    loss = (found * case["in/loss_weight"]).mean()
    loss.backward()
    case.check_gradients(wanted, loss, official_gradients(dit), given)
    dit.zero_grad(set_to_none=True)
    dit.requires_grad_(False)


@torch.no_grad()
def test_our_clock_runs_the_other_way(case, dit):
    t = 1 - case["in/timestep"] / 1000
    names = ("context", "context_2")
    cond = dict(zip(names, case.contexts(), strict=False))
    if case.about["attention_kwargs"]:
        pytest.skip("scales other than 1 are not the default")
    case.check("out/velocity", dit(case["in/latents"], t, cond))


@torch.no_grad()
def test_guided_trajectory(case, dit):
    name = "out/cfg7_6step_trajectory"
    if name not in case.tensors:
        pytest.skip("the released sizes have none")
    contexts = tuple(context[:1] for context in case.contexts())

    def velocity(x, t, cond):
        return dit.at(x, 1000 * (1 - t), *cond, scales=scales(case))

    null = tuple(torch.zeros_like(context) for context in contexts)
    field, states = batched_cfg(velocity, contexts, null, 7.0), []
    moves = plan(uniform(6), Euler())
    integrate(field, case["in/latents"][:1], moves, hook=lambda moved: states.append(moved.state))
    case.check(name, torch.stack(states))


def is_compared(name, official):
    """Say whether one of our tensors is one of these, or holds rows of one."""
    ours = {each.replace("ff.net.2.", "ff.2.") for each in official}
    stem, last = name.rsplit(".", 2)[0], name.rsplit(".", 2)[1]
    rows = {f"{stem}.to_{part}.weight" for part in last} if last in ("qkv", "q", "kv") else set()
    return name in ours or bool(rows & ours)


def official_gradients(network):
    """Return the gradients of a network under the official names, absent ones as zeros."""

    class Gradients:
        config = network.config

        @staticmethod
        def state_dict():
            return {
                name: torch.zeros(()).expand(p.shape) if p.grad is None else p.grad
                for name, p in network.named_parameters()
            }

    return to_official(Gradients)
