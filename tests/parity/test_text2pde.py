"""The networks of Text2PDE, from the golden files: outputs, activations, gradients, schedule."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_pde.networks import (
    DitConfig,
    GridAutoencoder,
    GridConfig,
    GridFrameConditioner,
    GridFrameConfig,
    LatentTransformer,
    MeshAutoencoder,
    MeshConfig,
    MeshFrameConditioner,
    MeshFrameConfig,
)
from rectiflow_pde.networks.dit import position_waves
from rectiflow_pde.networks.integral import IntegralTransform
from rectiflow_pde.networks.neighbours import within_radius
from rectiflow_pde.networks.transforms import Cloud
from torch.nn.utils.rnn import pad_sequence

sys.path.insert(0, str(Path(__file__).parent))
from text2pde_golden import FOLDERS, cases, is_heavy, load


def both(prefix):
    """Return cases, those that take long marked so."""
    return [
        pytest.param(*p.values, id=p.id, marks=[pytest.mark.slow] if is_heavy(p.values[0]) else [])
        for p in cases(prefix)
    ]


def ragged(case, name):
    """Return the points of each mesh without its padding, ``(t * node, k)``."""
    values, mask = case.given(name), case.given("pad_mask")
    if mask is None:
        return [row.flatten(0, 1) for row in values]
    kept = mask[:, 0, :, 0].bool()
    return [row[:, keep].flatten(0, 1) for row, keep in zip(values, kept, strict=True)]


@pytest.mark.parametrize("case", cases("gno_"))
def test_integral_transform(case):
    c, inputs = case.config, {name: case.given(name) for name in ("x", "y", "f_y", "weights")}
    near = within_radius(inputs["x"].numpy(), inputs["y"].numpy(), c["radius"])
    splits = case.tensors["out/neighbors_row_splits"]
    assert torch.equal(near.counts, splits.diff())
    for i in range(len(splits) - 1):
        wanted = case.tensors["out/neighbors_index"][splits[i] : splits[i + 1]]
        assert sorted(near.source[near.query == i].tolist()) == sorted(wanted.tolist())
    drawn, outputs, parameters = case.weights(), {}, {}
    for kind in c["transforms"]:
        known = c["channels"] if kind.startswith("nonlinear") else 0
        widths = [2 * c["coord_dim"] + known, *c["hidden"], c["channels"]]
        transform = IntegralTransform(widths, kind)
        own = {k.removeprefix(f"{kind}."): v for k, v in drawn.items() if k.startswith(f"{kind}.")}
        transform.load_state_dict(own)
        told = inputs["y"], inputs["x"], inputs["f_y"], near
        outputs[f"{kind}.mean"] = transform(*told)
        outputs[f"{kind}.weighted_sum"] = transform(*told, inputs["weights"])
        parameters |= {f"{kind}.{name}": p for name, p in transform.named_parameters()}
    for name, value in outputs.items():
        case.assert_near(name, value)
    case.assert_gradients(outputs, parameters)


@pytest.mark.parametrize("case", both("text2pde_mesh_ae_"))
def test_mesh_autoencoder(case):
    heavy = is_heavy(case)  # its gradients take 5 GB
    network = load(MeshAutoencoder(MeshConfig.from_official(case.config)), case)
    points = ragged(case, "pos")
    cloud = Cloud.join([network.cloud(each) for each in points])
    with torch.set_grad_enabled(not heavy):
        grid = network.to_grid(torch.cat(ragged(case, "x")), cloud)
        moments = network.encoder.cnn_encoder(grid)
        posterior = network.encode_points(torch.cat(ragged(case, "x")), cloud)
        z = posterior.mean if case.given("z") is None else case.given("z")
        cnn_grid = network.decoder.cnn_decoder(z)
        recon = network.decode_points(z, cloud)
    shape = case.about["outputs"]["recon"]["shape"]
    frames = [each.unflatten(0, (shape[1], -1)).transpose(0, 1)
              for each in recon.split([len(each) for each in points])]  # fmt: skip
    found = {
        "gno_grid": grid.movedim(1, -1),
        "moments": moments,
        "kl": posterior.kl(),
        "cnn_grid": cnn_grid,
        "recon": pad_sequence(frames, batch_first=True).transpose(1, 2),
    }
    for name, value in found.items():
        case.assert_near(name, value)
    if not heavy:
        case.assert_gradients(found, dict(network.named_parameters()))


@pytest.mark.parametrize("case", cases("text2pde_grid_ae_"))
def test_grid_autoencoder(case):
    network = load(GridAutoencoder(GridConfig.from_official(case.config)), case)
    condition = case.given("cond")
    moments = network.encoder(case.given("x"), condition)
    mean = moments.chunk(2, 1)[0]
    found = {"moments": moments, "recon": network.decode(mean, condition)}
    for name, value in found.items():
        case.assert_near(name, value)
    case.assert_gradients(found, dict(network.named_parameters()))


@pytest.mark.parametrize("case", cases("text2pde_first_frame_cond_"))
def test_first_frame_of_a_mesh(case):
    network = load(MeshFrameConditioner(MeshFrameConfig.from_official(case.config)), case)
    cloud = Cloud.join([network.place(each) for each in ragged(case, "pos")])
    values = torch.cat(ragged(case, "x"))
    found = {"out": network(values, cloud)}
    case.assert_near("gno_grid", network.to_grid(values, cloud).movedim(1, -1))
    case.assert_near("out", found["out"])
    case.assert_gradients(found, dict(network.named_parameters()))


@pytest.mark.parametrize("case", cases("text2pde_grid_cond_"))
def test_first_frame_of_a_grid(case):
    network = load(GridFrameConditioner(GridFrameConfig.from_official(case.config)), case)
    found = {"out": network(case.given("x"), case.given("cond"))}
    case.assert_near("out", found["out"])
    case.assert_gradients(found, dict(network.named_parameters()))


@pytest.mark.parametrize("case", cases("text2pde_dit_"))
def test_transformer(case, pytestconfig):
    gradients = pytestconfig.getoption("--slow") or not is_heavy(case)
    network = load(LatentTransformer(DitConfig.from_official(case.config)), case)
    z, t, context = (case.given(name) for name in ("z", "t", "context"))
    seen = {}
    for name, block in {"block_first": network.blocks[0], "block_last": network.blocks[-1]}.items():
        block.register_forward_hook(lambda _, given, out, name=name: seen.update({name: out}))
    with torch.set_grad_enabled(gradients):
        out = network(z, t, context)
    found = {"out": out, "c": network.vector(t, context), **seen}
    for name, value in found.items():
        case.assert_near(name, value)
    if case.given("mask") is not None:
        masked = network(z, t, context, case.given("mask"), mask_attention=False)
        case.assert_near("out_masked", masked)
    if gradients:
        case.assert_gradients({"out": out}, dict(network.named_parameters()))
    c = network.sizes
    thinned = len(case.tensors["out/pos_embed_init"][0]) < len(network.pos_embed[0])
    start = position_waves(c.tokens, c.width)[None]
    case.assert_near("pos_embed_init", start[:, ::16] if thinned else start)
    if "out/pos_embed_init_width64" in case.tensors:
        case.assert_near("pos_embed_init_width64", position_waves(c.tokens, 64)[None])


def test_schedule():
    from rectiflow_pde.flow import Diffusion

    found = [folder / "text2pde_schedule.npz" for folder in FOLDERS]
    for path in filter(Path.is_file, found):
        golden, ours = np.load(path), Diffusion()
        np.testing.assert_allclose(ours.betas, golden["betas"], rtol=1e-12)
        np.testing.assert_allclose(ours.alphas_cumprod, golden["alphas_cumprod"], rtol=1e-12)
        steps = ours.ddim_steps(20)
        assert steps.tolist() == golden["ddim_timesteps"].tolist()
        shares = ours.alphas_cumprod
        np.testing.assert_allclose(shares[steps], golden["ddim_alphas"], rtol=1e-12)
        before = np.append(shares[0], shares[steps[:-1]])
        np.testing.assert_allclose(before, golden["ddim_alphas_prev"], rtol=1e-12)
