"""Mosaic-SDF on shapes whose distance is known: the blend, its gradient, the fit, the files."""

import pytest
import torch
from rectiflow.storage.tensor_files import CheckpointError
from rectiflow_shape.data.synthetic import box, sphere, torus
from rectiflow_shape.geometry import certificate, extract
from rectiflow_shape.mosaic import FitSettings, Mosaic, MosaicField, fit, read_mosaic, write_mosaic
from rectiflow_shape.mosaic.field import blend, holders, weights
from rectiflow_shape.mosaic.fit import start
from rectiflow_shape.mosaic.representation import places


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def plane_mosaic(n=40, k=4, dtype=torch.float32):
    """Grids anywhere that all hold one affine function."""
    centres = torch.rand(n, 3, generator=seeded(), dtype=dtype) - 0.5
    scales = 0.2 + 0.2 * torch.rand(n, generator=seeded(1), dtype=dtype)
    values = affine(places(centres, scales, k)).view(n, k, k, k)
    return Mosaic(centres, scales, values)


def affine(x):
    return x @ torch.tensor([0.6, -0.3, 0.7], dtype=x.dtype) - 0.05


def points(count=4000, seed=3):
    return torch.rand(count, 3, generator=seeded(seed)) * 2 - 1


def test_affine_functions_are_reproduced_where_a_cube_is():
    field, x = MosaicField(plane_mosaic()), points()
    covered = field.covers(x)
    assert 0.2 < covered.float().mean() < 0.9
    assert torch.allclose(field(x)[covered], affine(x)[covered], atol=1e-6)


def test_weights_sum_to_one_in_the_cubes_and_are_of_the_maximum_norm():
    mosaic, x = plane_mosaic(), points()
    held = holders(mosaic.centres[None], mosaic.scales[None], x[None])
    ones = torch.ones_like(mosaic.values)
    value, total = blend(mosaic.centres, mosaic.scales, ones, x, held)
    assert torch.allclose(value[total > 0], torch.ones(()), atol=1e-6)
    assert not value[total == 0].any()
    corner = mosaic.centres[:1] + 0.99 * mosaic.scales[0]
    own = weights(mosaic.centres, mosaic.scales, corner, torch.tensor([[0, -1]]))
    assert own[0].tolist() == pytest.approx([0.01, 0.0], abs=1e-5)


def test_the_table_finds_the_cubes_that_a_full_search_finds():
    mosaic, x = plane_mosaic(), points()
    noisy = Mosaic(mosaic.centres, mosaic.scales, torch.randn(40, 4, 4, 4, generator=seeded(5)))
    field = MosaicField(noisy)
    held = holders(noisy.centres[None], noisy.scales[None], x[None])
    value, total = blend(noisy.centres, noisy.scales, noisy.values, x, held)
    covered = total > 1e-6
    assert torch.equal(field.covers(x), total > 0)
    assert torch.allclose(field(x)[covered], value[covered], atol=1e-5)


def test_the_order_of_the_grids_means_nothing():
    mosaic, x = plane_mosaic(), points()
    order = torch.randperm(len(mosaic), generator=seeded(7))
    noise = torch.randn(mosaic.values.shape, generator=seeded(8))
    first = Mosaic(mosaic.centres, mosaic.scales, noise)
    other = Mosaic(mosaic.centres[order], mosaic.scales[order], noise[order])
    assert torch.allclose(MosaicField(first)(x), MosaicField(other)(x), atol=1e-5)


def test_the_gradient_is_that_of_weights_and_grids_together():
    base = plane_mosaic(8, 3, torch.float64)
    centres, scales = base.centres.requires_grad_(), base.scales.requires_grad_()
    values = torch.randn(8, 3, 3, 3, dtype=torch.float64, generator=seeded(2)).requires_grad_()
    x = base.centres.detach()[:5] + torch.tensor([0.031, -0.057, 0.013]).double()
    x = x.requires_grad_()
    held = torch.arange(8).expand(5, 8)
    assert torch.autograd.gradcheck(
        lambda *given: blend(*given, held)[0], (centres, scales, values, x), atol=1e-5
    )


def test_beyond_the_cubes_the_field_keeps_its_sign_and_does_not_jump():
    outline = sphere(0.6, seeded())
    settings = FitSettings(64, 5, steps=0, pool=256)
    field = MosaicField(start(*outline, settings, seeded()).mosaic)
    x = points(20_000)
    beyond = ~field.covers(x)
    assert beyond.float().mean() > 0.3
    true = outline[2](x)
    assert torch.equal(field(x)[beyond] < 0, true[beyond] < 0)
    ray = torch.linspace(0.3, 0.999, 3000)[:, None] * torch.nn.functional.normalize(
        torch.tensor([[0.7, 0.5, 0.2]]), dim=-1
    )
    assert field(ray).diff().abs().max() < 0.3 * field.mosaic.scales[0]


@pytest.mark.parametrize(
    ("shape", "bound"),
    [
        (lambda: sphere(0.7, seeded()), 1.6e-3),
        (lambda: torus(0.6, 0.25, seeded()), 2e-3),
        (lambda: box(torch.tensor([0.8, 0.5, 0.3]), seeded()), 4e-3),
    ],
    ids=["sphere", "torus", "box"],
)
def test_a_fit_halves_the_error_of_the_filled_grids(shape, bound):
    outline = shape()
    settings = FitSettings(64, 5, steps=40, frozen=10, batch=512, pool=4000)
    found = fit(*outline, settings, generator=seeded())
    assert found.error < bound
    assert found.error < 0.6 * found.error_before
    surface = extract(MosaicField(found.mosaic).inside_positive, depth=5)
    assert certificate(surface.mesh).passed
    off = outline[2](torch.from_numpy(surface.mesh.vertices).float()).abs()
    assert off.mean() < 3 * bound


def test_files_come_back_and_damaged_ones_are_named(tmp_path):
    mosaic = plane_mosaic()
    write_mosaic(tmp_path / "m.safetensors", mosaic)
    back = read_mosaic(tmp_path / "m.safetensors")
    assert all(torch.equal(getattr(back, n), getattr(mosaic, n)) for n in ("scales", "values"))
    assert mosaic.numbers == 40 * (4 + 64)
    flat = Mosaic(mosaic.centres, -mosaic.scales, mosaic.values)
    write_mosaic(tmp_path / "bad.safetensors", flat)
    with pytest.raises(CheckpointError, match="positive scales"):
        read_mosaic(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="a mosaic has centres"):
        Mosaic(mosaic.centres[:3], mosaic.scales, mosaic.values)


def test_boxes_are_the_closed_cubes():
    from rectiflow_shape.geometry import Mesh

    vertices, faces = Mosaic(torch.zeros(1, 3), torch.ones(1), torch.zeros(1, 2, 2, 2)).boxes()
    judged = certificate(Mesh(vertices.numpy(), faces.numpy()))
    assert judged.passed
    assert judged.volume == pytest.approx(8.0)
