"""Instruments against scikit-image and their own adjoints; phantoms; deformations in space."""

import warnings

import numpy as np
import pytest
import torch
from rectiflow.inverse import Blur, Downsample, Gaussian, Measurement, TotalVariation, check_adjoint
from rectiflow_imaging import drdm
from rectiflow_imaging.deformation import RandomField, compose, folded, jacobian, magnitude, warp
from rectiflow_imaging.networks import RecoveryNetwork
from rectiflow_imaging.operators import (
    Fourier,
    ParallelBeam,
    gaussian_kernel,
    random_lines,
    view_angles,
)
from rectiflow_imaging.phantoms import FAMILIES, shepp_logan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def head():
    return shepp_logan((1, 64, 64), generator(), vary=0).values[:, None].double()


def test_tomography_is_that_of_scikit_image(head):
    transform = pytest.importorskip("skimage.transform")
    for side in (64, 33):
        image, angles = head[..., :side, :side] * 0, view_angles(13)
        image[..., 8 : side - 9, 9 : side - 8] = head[..., 8 : side - 9, 9 : side - 8]
        beam, degrees = ParallelBeam(side, angles), np.rad2deg(angles)
        found = beam(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corners outside of the circle
            wanted = transform.radon(image[0, 0].numpy(), degrees, circle=True)
        np.testing.assert_allclose(found[0, 0].T, wanted, atol=1e-9)
        back = transform.iradon(wanted, degrees, circle=False, output_size=side)
        np.testing.assert_allclose(beam.filtered(found)[0, 0], back, atol=1e-6)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        (ParallelBeam(24, view_angles(7)), (1, 24, 24)),
        (Fourier(random_lines((16, 12), 2, generator=generator())), (2, 16, 12)),
        (Blur(gaussian_kernel(1.2)), (1, 16, 16)),
    ],
    ids=["rays", "fourier", "blur"],
)
def test_adjoints(operator, shape):
    check_adjoint(operator, shape)
    check_adjoint(operator, shape, dtype=torch.float32)


def test_filtered_back_projection_gets_nearer_with_views(head):
    errors = []
    for views in (8, 32, 128):
        beam = ParallelBeam(64, view_angles(views))
        errors.append((beam.filtered(beam(head)) - head).square().mean().sqrt())
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    with pytest.raises(ValueError, match="at least one view"):
        view_angles(0)


def test_fourier_lines_and_closed_form():
    keep = random_lines((20, 40), 4, centre=0.1, generator=generator())
    assert keep.sum() == 20 * 10
    assert keep[:, [0, 1, 38, 39]].all()  # the lowest of both signs
    operator, b = Fourier(keep), torch.randn(2, 1, 20, 40, dtype=torch.float64)
    z = operator.solve(b, 0.3)
    torch.testing.assert_close(operator.adjoint(operator(z)) + 0.3 * z, b)
    y = operator(b)
    torch.testing.assert_close(operator(operator.pinv(y)), y)
    with pytest.raises(ValueError, match="at most"):
        random_lines((20, 40), 20, centre=0.1, generator=generator())


def test_total_variation_beats_filtered_back_projection(head):
    beam = ParallelBeam(64, view_angles(12))
    y = beam(head)
    between = TotalVariation(
        Measurement(beam, y, Gaussian(0.0)), (2, 3), 0.5, 20, 3, periodic=False
    )
    first = beam.filtered(y)
    found = between.solve(first, 40).x
    assert (found - head).square().mean() < 0.3 * (first - head).square().mean()
    flat = torch.arange(5.0)[:, None].expand(5, 2).clone()
    assert (between._forward(flat[None, None])[1] == 0).all()
    assert TotalVariation(between.measurement, 0, periodic=False)._forward(flat)[-1].sum() == 0


@pytest.mark.parametrize(("kind", "share"), [("magnetic resonance", 0.7), ("blocks", 0.9)])
def test_total_variation_beats_the_shortest_image(kind, share, head):
    """Of few lines of frequencies, and of means of blocks (super-resolution)."""
    lines = random_lines((64, 64), 2.5, generator=generator())
    operator = Fourier(lines) if kind == "magnetic resonance" else Downsample((2, 2))
    y = operator(head)
    first = operator.pinv(y)
    told = {"rho": 0.1, "inner": 3, "periodic": False}
    found = TotalVariation(Measurement(operator, y), (2, 3), 1e-3, **told).solve(first, 60).x
    assert (found - head).square().mean() < share * (first - head).square().mean()


@pytest.mark.parametrize("name", FAMILIES)
def test_phantoms_repeat_and_differ(name):
    one, same, other = (FAMILIES[name]((24, 32, 32), generator(s)) for s in (1, 1, 2))
    assert torch.equal(one.values, same.values)
    assert (one.values - other.values).abs().mean() > 0.005
    assert one.values.shape == one.labels.shape == (24, 32, 32)
    assert 0 <= one.values.min() < one.values.max() <= 1
    assert len(one.labels.unique()) >= 4
    assert one.values[:, 0, 0].max() == 0
    # Slices of one body resemble each other.
    assert (one.values[12] - one.values[11]).abs().mean() < (one.values - other.values)[
        11
    ].abs().mean()
    with pytest.raises(ValueError, match="squares"):
        FAMILIES[name]((1, 8, 9), generator())


def test_the_head_is_shepp_and_logans():
    values = shepp_logan((1, 256, 256), generator(), vary=0).values[0]
    assert values[128, 128].item() == pytest.approx(0.2, abs=1e-6)
    assert values[128, 128 + 28].item() == pytest.approx(0.0, abs=1e-6)  # in the right ventricle
    assert values[14].max().item() == pytest.approx(1.0, abs=1e-6)  # the skull


@pytest.mark.parametrize("axes", [2, 3])
def test_random_fields_do_not_fold_and_recovery_runs(axes):
    random, side = RandomField(grid=32, scale=1.5e-4), 32
    field, label = random(
        random.noise(2, axes, generator=generator()), torch.tensor([30, 60]), side
    )
    assert field.shape == label.shape == (2, axes, *(side,) * axes)
    assert (magnitude(field)[1] > magnitude(label)[1]).all()
    assert magnitude(field)[0][1] > magnitude(field)[0][0]
    assert folded(field).max() < 0.01
    network = RecoveryNetwork(n_steps=80, ndims=axes)
    image = torch.rand(2, 1, *(side,) * axes, generator=generator())
    with torch.no_grad():
        found, moved = drdm.recover(network, image, field, [1, 0])
    assert found.shape == field.shape
    torch.testing.assert_close(moved, warp(image, found))
    losses = drdm.loss(network(image, torch.tensor([30, 60])), label)
    assert losses.shape == (2,)
    losses.mean().backward()


def test_jacobian_and_composition_of_known_maps():
    side = 16
    places = torch.stack(torch.meshgrid(*[torch.arange(side).double()] * 2, indexing="ij"))[None]
    scale = 0.2 * (places - 7.5) / side
    torch.testing.assert_close(jacobian(scale), torch.full((1, side, side), 1.44).double())
    assert folded(-6 * scale).item() == 0  # turned by half a circle, not folded
    mirrored = torch.cat([-10 * scale[:, :1], 0 * scale[:, :1]], 1)
    assert folded(mirrored).item() == 1
    shift = torch.zeros(1, 2, side, side, dtype=torch.float64)
    shift[:, 1] = 2 / side
    image = torch.rand(1, 1, side, side, dtype=torch.float64)
    torch.testing.assert_close(warp(image, shift)[..., :-2], image[..., 2:])
    torch.testing.assert_close(compose(shift, shift), 2 * shift)
    labels = torch.randint(5, (1, 1, side, side)).double()
    assert set(warp(labels, scale, nearest=True).unique().tolist()) <= set(range(5))
    with pytest.raises(ValueError, match="square"):
        warp(image[..., :-1], shift)
