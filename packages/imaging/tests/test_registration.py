"""Registration: deformations that are known are found, and say what they do."""

import numpy as np
import pytest
import torch
from rectiflow_imaging.deformation import folded
from rectiflow_imaging.io import Volume
from rectiflow_imaging.phantoms import shepp_logan
from rectiflow_imaging.registration import LIKENESS, Registration, correlation, onto, register

QUICK = Registration(iterations=15)
PLACE = np.diag([2.0, 1.0, 1.0, 1.0])


def head(seed, shape=(1, 32, 32), affine=None):
    made = shepp_logan(shape, torch.Generator().manual_seed(seed))
    labels = np.where(made.labels.numpy() > 5, 0, made.labels.numpy())  # but the smallest
    return Volume(made.values.numpy(), affine, labels=labels)


@pytest.mark.parametrize("name", LIKENESS)
def test_structures_that_it_was_not_told_come_to_lie_on_each_other(name):
    one, other = (head(seed, (1, 48, 48)) for seed in (0, 1))
    found = register(one, other, Registration(LIKENESS[name], iterations=40))
    told = found.measured["registered"]
    assert told["likeness"] > told["likeness_before"]
    assert told["dice"] > told["dice_before"] + 0.03
    assert told["folded"] < 0.01
    assert found.field.shape == (2, 1, 48, 48)
    assert found.field.abs().max() == pytest.approx(
        48 * told["largest_displacement"], rel=0.5
    )  # of a component, in pixels
    labels = found.volumes["registered"].labels
    np.testing.assert_array_equal(found.volumes["segmentation"].values, labels)
    assert set(np.unique(labels)) <= set(np.unique(one.labels))


def test_any_numbers_stand_for_a_flow_without_folds():
    noise = [torch.randn(2, 2, s, s, generator=torch.Generator().manual_seed(s)) for s in (2, 4, 8)]
    field = Registration().field(noise, 48)
    assert field.abs().max() > 0.1
    assert folded(field).max() < 0.01


def test_volumes_by_their_places(tmp_path):
    moving, fixed = head(0, (8, 16, 16), PLACE), head(1, (6, 12, 12))
    # The fixed image begins a slice, two rows and a column later.
    place = PLACE.copy()
    place[:3, 3] = 2, 2, 1
    fixed = Volume(fixed.values, place)
    laid = onto(moving, fixed)
    np.testing.assert_allclose(laid.values, moving.values[1:7, 2:14, 1:13])
    np.testing.assert_array_equal(laid.labels, moving.labels[1:7, 2:14, 1:13])
    found = register(moving, fixed, Registration(iterations=2, shrinks=(2,)))
    assert found.volumes["registered"].values.shape == fixed.values.shape
    np.testing.assert_array_equal(found.volumes["registered"].affine, fixed.affine)
    assert found.field.shape == (3, 6, 12, 12)
    assert "dice" not in found.measured["registered"]
    found.write(tmp_path)
    with np.load(tmp_path / "field.npz") as file:
        np.testing.assert_array_equal(file["field"], found.field)


def test_images_that_cannot_be_compared():
    with pytest.raises(ValueError, match=r"shapes \(1, 32, 32\) and \(1, 24, 24\)"):
        register(head(0), head(1, (1, 24, 24)), QUICK)
    with pytest.raises(ValueError, match="1 and 4 slices"):
        register(head(0), head(1, (4, 32, 32)), QUICK)


def test_correlation_does_not_see_brightness_and_contrast():
    x = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    assert correlation(x, 3 * x + 1) > 0.95
    assert correlation(x, 1 - x) < -0.9
    assert correlation(x, torch.zeros_like(x)) == 0
