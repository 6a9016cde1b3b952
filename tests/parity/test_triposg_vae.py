"""The official TripoSG autoencoder, from the golden files."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_shape.networks import Posterior, TripoSGVae
from rectiflow_shape.weights import expected, to_official, vae_from_official
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).parent))
from test_triposg_dit import official_gradients
from triposg_golden import Recorder, cases, draw_weights, rms


@pytest.fixture(scope="module", params=cases("triposg_vae_"))
def case(request):
    return request.param


@pytest.fixture(scope="module")
def official(case):
    return draw_weights(case.about, expected(case.about["config"], is_vae=True))


@pytest.fixture(scope="module")
def vae(case, official):
    return vae_from_official(official, case.about["config"])


@pytest.fixture
def queries(case):
    """Return the points that become tokens, by the stored choice and the stored indices."""
    points, choice = case["in/points"], case["in/choice_idx"]
    flat = points[:, choice].flatten(0, 1)[case["in/fps_idx_flat"]]
    return flat.unflatten(0, (len(points), -1))


def latents_of(case):
    mean, logvar = case["out/moments"].chunk(2, dim=-1)
    return Posterior(mean, logvar.clamp(-30, 20)).sample(case["in/latent_noise"])


def test_the_released_sizes_are_the_default():
    with torch.device("meta"):
        vae = TripoSGVae()
    assert sum(p.numel() for p in vae.parameters()) == 242_662_017
    assert len(to_official(vae)) == 356


def test_official_tensors_come_back_bit_for_bit(official, vae):
    back = to_official(vae)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[name], value) for name, value in official.items())


def test_the_choice_of_points(case):
    points, n = len(case["in/points"][0]), case.about["num_tokens"]
    rng = np.random.default_rng(case.about["choice_seed"])
    choice = rng.choice(points, 4 * n, replace=4 * n > points)
    assert choice.tolist() == case["in/choice_idx"].tolist()


@torch.no_grad()
def test_encoder(case, vae, queries):
    case.check("out/sampled_points", queries)
    with Recorder(vae.encoder.blocks) as seen:
        posterior = vae.encode(case["in/points"], queries)
    case.check("out/moments", vae.quant(vae.encoder.norm_out(seen[-1])))
    case.check("out/kl", posterior.kl())
    case.check("out/act_rms_encoder", rms(seen))
    for name, wanted in case.starting("act/encoder.blocks.").items():
        case.check(f"act/encoder.blocks.{name}", seen[int(name)][:, : wanted.shape[1]])


@torch.no_grad()
def test_decoder_in_any_chunks(case, vae):
    z, xyz = latents_of(case), case["in/query_points"]
    case.check("out/embedding_first8", vae.embedding(xyz[:, :8]))
    with Recorder(vae.decoder.blocks) as seen:
        values = vae.decode(z, xyz)
    case.check("out/values", values[..., None])
    case.check("out/act_rms_decoder", rms(seen))
    for name, wanted in case.starting("act/decoder.blocks.").items():
        case.check(f"act/decoder.blocks.{name}", seen[int(name)][:, : wanted.shape[1]])
    assert torch.allclose(vae.decode(z, xyz, chunk=97), values, atol=3e-5)


def test_gradients_end_to_end(case, vae, queries):
    vae.zero_grad(set_to_none=True)
    posterior = vae.encode(case["in/points"], queries)
    values = vae.decode(posterior.sample(case["in/latent_noise"]), case["in/query_points"])
    loss = (values[..., None] * case["in/loss_weight"]).mean()
    loss.backward()
    case.check_gradients(case.about["gradients"], loss, official_gradients(vae))


def test_gradient_of_the_field_and_its_own(case, vae):
    vae.zero_grad(set_to_none=True)
    xyz = case["in/query_points"][:, :64].clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        values = vae.decode(latents_of(case), xyz)
        (gradient,) = torch.autograd.grad(values.sum(), xyz, create_graph=True)
        loss = (gradient * case["in/normal_weight"]).sum(-1).mean()
        loss.backward()
    case.check("out/values_grad_first64", gradient.detach())
    case.check_gradients(case.about["second_order"], loss, official_gradients(vae))
