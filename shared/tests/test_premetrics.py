"""Premetrics: golden values, masks, gradients."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.premetrics import (
    ElementwiseHuber,
    MeanSquared,
    PartWeights,
    Premetric,
    PseudoHuber,
    RootMeanSquared,
)
from torch.testing import assert_close

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz")
GOLDEN_KEYS = {
    "huber_ict": PseudoHuber(),
    "huber_rfpp": PseudoHuber(power=1, mean=True),
    "huber_elementwise_1e-3": ElementwiseHuber(1e-3),
    "mse_mean": MeanSquared(),
    "l2_root_mean": RootMeanSquared(),
}
each_premetric = pytest.mark.parametrize("premetric", GOLDEN_KEYS.values(), ids=GOLDEN_KEYS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("key", GOLDEN_KEYS)
def test_golden(key: str) -> None:
    e = torch.from_numpy(GOLDEN["premetric/e"])
    expected = torch.from_numpy(GOLDEN[f"premetric/{key}"])
    offset = draw(*e.shape)
    assert_close(GOLDEN_KEYS[key](e, torch.zeros_like(e)), expected, rtol=1e-9, atol=0)
    shaped = (e + offset).reshape(6, 3, 2, 2), offset.reshape(6, 3, 2, 2)
    assert_close(GOLDEN_KEYS[key](*shaped), expected, rtol=1e-9, atol=1e-15)


@each_premetric
def test_mask_equals_cutting_the_padding_off(premetric: Premetric) -> None:
    """Also where the padding is NaN, and down to the gradient."""
    prediction, target = draw(3, 5, 2).requires_grad_(), draw(3, 5, 2, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.bool)
    spoiled = torch.where(mask[..., None], target, torch.nan)
    cost = premetric(prediction, spoiled, mask)
    for i in range(3):
        alone = premetric(prediction[i][mask[i]][None], target[i][mask[i]][None])
        assert_close(cost[i : i + 1], alone)
    (grad,) = torch.autograd.grad(cost.sum(), prediction)
    assert grad.isfinite().all()
    assert (grad[~mask] == 0).all()
    assert (grad[mask] != 0).all()


@each_premetric
def test_nothing_real_costs_nothing_and_no_error_has_a_finite_gradient(premetric) -> None:
    x = draw(2, 4).requires_grad_()
    for mask in (torch.zeros(2, 4, dtype=torch.bool), None):
        target = x.detach() if mask is None else draw(2, 4, seed=1)
        cost = premetric(x, target, mask)
        assert_close(cost, torch.zeros(2).double())
        (grad,) = torch.autograd.grad(cost.sum(), x)
        assert_close(grad, torch.zeros_like(grad))


@each_premetric
def test_mask_of_whole_samples(premetric: Premetric) -> None:
    x, y = draw(3, 4), draw(3, 4, seed=1)
    cost = premetric(x, y, torch.tensor([True, False, True]))
    assert_close(cost[[0, 2]], premetric(x, y)[[0, 2]])
    assert cost[1] == 0


@each_premetric
def test_half_precision_is_reduced_in_single(premetric: Premetric) -> None:
    x = torch.full((2, 4096), 1.0, dtype=torch.bfloat16)
    cost = premetric(x, torch.zeros_like(x))
    assert cost.dtype == torch.float32
    exact = premetric(x.double(), torch.zeros_like(x).double())
    assert_close(cost, exact.float(), rtol=1e-5, atol=0)


def test_pseudo_huber_is_quadratic_then_linear() -> None:
    target, c = torch.zeros(1, 16, dtype=torch.float64), 0.00054 * 4
    small, large = (PseudoHuber()(target + size, target).item() for size in (1e-8, 100.0))
    assert small == pytest.approx(16e-16 / (2 * c), rel=1e-6)
    assert large == pytest.approx(400 - c, rel=1e-8)


def test_parts_are_added_with_their_weights_and_masks() -> None:
    x = {"trans": draw(2, 3, 3), "rot": draw(2, 3, 3, seed=1)}
    zero = {name: torch.zeros_like(part) for name, part in x.items()}
    mse = MeanSquared()
    trans, rot = (mse(x[name], zero[name]) for name in ("trans", "rot"))
    assert_close(mse(x, zero), trans + rot)
    weights = PartWeights({"rot": (0.5, PseudoHuber()), "trans": (2.0, mse)})
    assert_close(weights(x, zero), 2 * trans + 0.5 * PseudoHuber()(x["rot"], zero["rot"]))
    mask = torch.tensor([[True, False, True], [True, True, False]])
    expected = mse(x["trans"], zero["trans"], mask) + rot
    assert_close(mse(x, zero, {"trans": mask}), expected)
    assert_close(mse(x, zero, mask), mse(x, zero, {"trans": mask, "rot": mask}))


def test_bad_arguments() -> None:
    x, mse = torch.zeros(2, 3), MeanSquared()
    with pytest.raises(ValueError, match=r"prediction must have shape \(2, 1\), got \(2, 3\)"):
        mse(x, x[:, :1])
    with pytest.raises(
        ValueError, match=r"leading axes of \(2, 3\), got torch.bool of shape \(3,\)"
    ):
        mse(x, x, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be boolean"):
        mse(x, x, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"must have shape \{'a': \(2, 3\)\}, got \(2, 3\)"):
        mse(x, {"a": x})
    with pytest.raises(ValueError, match=r"must have shape \(2, 3\), got \{'a'"):
        mse({"a": x}, x)
    with pytest.raises(ValueError, match=r"one tensor but the mask has parts \['a'\]"):
        mse(x, x, {"a": x.bool()})
    with pytest.raises(ValueError, match=r"must have parts \['a', 'b'\], got \['a'\]"):
        PartWeights({"a": (1.0, mse), "b": (1.0, mse)})({"a": x}, {"a": x})
    for cost in (mse, PartWeights({"a": (1.0, mse)})):
        with pytest.raises(ValueError, match=r"named like the parts \['a'\], got \['A'\]"):
            cost({"a": x}, {"a": x}, {"A": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="got one tensor"):
        PartWeights({"a": (1.0, mse)})(x, x)


def test_rules_use_their_factor() -> None:
    e, zero = draw(2, 9), torch.zeros(2, 9, dtype=torch.float64)
    total = e.square().sum(1)
    c = 0.1 * math.sqrt(9)
    assert_close(PseudoHuber(0.1)(e, zero), (total + c * c).sqrt() - c)
    assert_close(PseudoHuber(0.1, 1, True)(e, zero), ((total + 0.81).sqrt() - 0.9) / 9)


def test_costs_are_values() -> None:
    parts = {"trans": (1.0, MeanSquared()), "rot": (0.5, PseudoHuber(power=1, mean=True))}
    for cost in (*GOLDEN_KEYS.values(), PartWeights(parts)):
        again = eval(repr(cost))
        assert again == cost
        assert hash(again) == hash(cost)
    assert PartWeights(parts) != PartWeights({"trans": (1.0, MeanSquared())})
