"""Neighbours, integrals, the patch codec, the transformer of our own: what they promise."""

import numpy as np
import pytest
import torch
from rectiflow_pde.networks import DitConfig, MeshAutoencoder, MeshConfig
from rectiflow_pde.networks.convolution import ConvConfig
from rectiflow_pde.networks.discriminator import MeshDiscriminator
from rectiflow_pde.networks.integral import IntegralTransform, lattice
from rectiflow_pde.networks.neighbours import joined, within_radius
from rectiflow_pde.networks.patches import PatchCodec, PatchConfig
from rectiflow_pde.networks.simulator import FlowTransformer, beside
from rectiflow_pde.networks.transforms import Cloud, TransformConfig


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("queries", "sources", "dims"), [(40, 300, 3), (300, 40, 2), (1, 5, 2)])
def test_neighbours_are_those_that_all_distances_tell(queries, sources, dims):
    random = np.random.default_rng(queries)
    x, y = random.random((queries, dims)), random.random((sources, dims))
    near = within_radius(x, y, 0.3)
    wanted = np.argwhere(np.linalg.norm(x[:, None] - y, axis=-1) <= 0.3)
    assert sorted(torch.stack([near.query, near.source], 1).tolist()) == wanted.tolist()
    assert near.query.tolist() == sorted(near.query.tolist())
    back = near.turned()
    assert sorted(torch.stack([back.source, back.query], 1).tolist()) == wanted.tolist()


def test_neighbours_of_clouds_do_not_mix():
    random = np.random.default_rng(0)
    parts = [within_radius(random.random((3, 2)), random.random((n, 2)), 0.5) for n in (4, 7)]
    both = joined(parts)
    assert (both.n_queries, both.n_sources) == (6, 11)
    second = both.query >= 3
    assert torch.equal(both.source[second] - 4, parts[1].source)


def test_integral_in_blocks_is_the_whole_with_its_gradients(monkeypatch):
    x, y = lattice((4, 4)), drawn(0, 60, 2).sigmoid()
    near = within_radius(x.numpy(), y.numpy(), 0.4)
    f = drawn(1, 60, 5)
    torch.manual_seed(0)
    transform = IntegralTransform([9, 8, 5], "nonlinear")
    whole = transform(y, x, f, near)
    (one,) = torch.autograd.grad(whole.square().sum(), transform.mlp.fcs[0].weight)
    monkeypatch.setattr("rectiflow_pde.networks.integral.PAIRS", 50)
    parts = transform(y, x, f, near)
    (two,) = torch.autograd.grad(parts.square().sum(), transform.mlp.fcs[0].weight)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    conv = ConvConfig(8, (1, 2), 1, 4, (), 4)
    sizes = MeshConfig(3, 8, TransformConfig(0.25, 8, (8,)), conv)
    return MeshAutoencoder(sizes).eval()


@torch.no_grad()
def test_mesh_autoencoder_does_not_know_the_order_of_nodes(autoencoder):
    points, fields = drawn(0, 50, 2).sigmoid(), drawn(1, 50, 4, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    cloud, turned = autoencoder.place(points, 4), autoencoder.place(points[order], 4)
    z, other = autoencoder.encode(fields, cloud), autoencoder.encode(fields[order], turned)
    torch.testing.assert_close(z.mean, other.mean, rtol=1e-4, atol=1e-5)
    decoded = autoencoder.decode(z.mean, cloud)
    assert decoded.shape == (50, 4, 3)
    moved = autoencoder.decode(z.mean, turned)
    torch.testing.assert_close(moved, decoded[order], rtol=1e-4, atol=1e-5)
    # A finer mesh that holds these nodes has the same values at them.
    finer = autoencoder.place(torch.cat([points, drawn(3, 30, 2).sigmoid()]), 4)
    torch.testing.assert_close(
        autoencoder.decode(z.mean, finer)[:50], decoded, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_meshes_of_a_batch_do_not_see_each_other(autoencoder):
    clouds = [autoencoder.place(drawn(n, n, 2).sigmoid(), 4) for n in (30, 45)]
    fields = [drawn(n + 1, n, 4, 3) for n in (30, 45)]
    both = autoencoder.encode(torch.cat(fields), Cloud.join(clouds)).mean
    for row, cloud, each in zip(both, clouds, fields, strict=True):
        torch.testing.assert_close(
            row, autoencoder.encode(each, cloud).mean[0], rtol=1e-4, atol=1e-5
        )


def test_discriminator_judges_within_one():
    torch.manual_seed(0)
    judge = MeshDiscriminator(3, 4, TransformConfig(0.4, 4, (8,), "nonlinear"), 6)
    verdict = judge(drawn(0, 40, 3), drawn(1, 40, 3).sigmoid())
    assert verdict.shape == (64, 6)
    assert verdict.abs().max() < 1


SIZES = PatchConfig(cells=(12, 8), frames=8, patch=(6, 4, 4), latent=20)


def waves(seed, frames=12):
    """Flows of few degrees of freedom, mirrored flows among them."""
    amplitude = drawn(seed, 3, 4)
    x, y, t = torch.meshgrid(
        torch.linspace(0, 1, 12), torch.linspace(-1, 1, 8), torch.linspace(0, 2, frames),
        indexing="ij",
    )  # fmt: skip
    shapes = torch.stack([(6 * x - 4 * t).sin(), (6 * x - 4 * t).cos(), y * (3 * t).sin(), x * y])
    return torch.einsum("kc,cxyt->kxyt", amplitude, shapes)


def test_patch_codec_is_exact_on_what_its_components_span():
    codec = PatchCodec(SIZES)
    assert not codec.is_fitted
    codec.fit([waves(seed) for seed in range(20)])
    assert codec.is_fitted
    unseen = torch.stack([waves(99)[..., :8]])
    z = codec.encode(unseen)
    assert z.shape == (1, *codec.latent_shape)
    error = (codec.decode(z) - unseen).norm() / unseen.norm()
    assert error < 0.05
    seen = codec.encode(torch.stack([waves(seed)[..., :8] for seed in range(20)]))
    assert 0.5 < seen.square().mean().sqrt() < 2
    wider = PatchCodec(PatchConfig(cells=(12, 8), frames=8, patch=(6, 4, 4), latent=3))
    wider.fit([waves(seed) for seed in range(20)])
    worse = (wider.decode(wider.encode(unseen)) - unseen).norm() / unseen.norm()
    assert worse > error


def test_patch_codec_keeps_its_fit_on_disk(tmp_path):
    codec = PatchCodec(SIZES)
    codec.fit([waves(seed) for seed in range(5)])
    codec.save_pretrained(tmp_path / "codec")
    again = PatchCodec.from_pretrained(tmp_path / "codec")
    flow = waves(7)[None, ..., :8]
    assert torch.equal(again.encode(flow), codec.encode(flow))
    with pytest.raises(ValueError, match="do not fill"):
        PatchConfig(cells=(12, 8), frames=7, patch=(6, 4, 4), latent=3)


@torch.no_grad()
def test_transformer_sees_numbers_and_the_frame_only_when_told():
    torch.manual_seed(0)
    network = FlowTransformer(DitConfig((2, 2, 2), (1, 1, 1), 4, 5, 16, 2, 2, 8))
    for parameter in network.parameters():  # the start is the identity: every path is dead
        parameter.add_(0.1 * torch.randn_like(parameter))
    x, t = drawn(0, 1, 4, 2, 2, 2), torch.tensor([0.5])
    numbers, frame = torch.tensor([[0.1, -0.3, 0.5, 0.0, 0.9]]), drawn(1, 1, 4, 2, 2, 2)

    def say(numbers, frame, given=True):
        return network(x, t, {"numbers": numbers, "beside": beside(frame, given)})

    base = say(numbers, frame)
    assert base.shape == x.shape
    changed = numbers.clone()
    changed[0, 2] = torch.nan
    assert (say(changed, frame) - base).abs().max() > 1e-4
    assert (say(numbers, 2 * frame) - base).abs().max() > 1e-4
    assert torch.equal(say(numbers, frame, False), say(numbers, 2 * frame, False))
    with pytest.raises(ValueError, match="one more than channels"):
        FlowTransformer(DitConfig((2, 2, 2), (1, 1, 1), 4, 4, 16, 2, 2, 8))
