"""Spaces: geodesics, their logarithms, and uniform noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.spaces import (
    Euclidean,
    Product,
    Rotations,
    quat_conjugate,
    quat_multiply,
    quat_to_rotmat,
    quat_to_rotvec,
    rotation_angle,
    rotmat_to_quat,
    rotvec_to_quat,
)
from rectiflow.states import batch_of, expand_time, leaves, map_state
from torch.testing import assert_close

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz")
SO3 = Rotations()
SE3 = Product({"trans": Euclidean(), "rot": Rotations()})


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[f"quat/{key}"])


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return SO3.prior(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def up_to_sign(q: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.where((q * like).sum(-1, keepdim=True) < 0, -q, q)


def test_golden_geodesics() -> None:
    q0, q1, t = golden("q0"), golden("q1"), golden("t")
    omega = SO3.log(q0, q1)
    assert_close(omega, golden("omega_body"), rtol=1e-9, atol=1e-12)
    assert_close(omega.norm(dim=-1), golden("angle"), rtol=1e-9, atol=1e-12)
    point = SO3.geodesic(q0, q1, t)
    assert_close(up_to_sign(point, golden("slerp")), golden("slerp"), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hard_pairs_have_finite_values_and_gradients(dtype: torch.dtype) -> None:
    """Identical, antipodal, 1e-7 apart, and pi - 1e-6 apart: rows 0 to 3 of the golden pairs."""
    q0 = golden("q0")[:4].to(dtype).requires_grad_()
    q1 = golden("q1")[:4].to(dtype).requires_grad_()
    out = [SO3.log(q0, q1), SO3.geodesic(q0, q1, golden("t")[:4].to(dtype))]
    for value in out:
        assert value.isfinite().all()
        grads = torch.autograd.grad(value.square().sum() + value.sum(), (q0, q1), retain_graph=True)
        assert all(g.isfinite().all() for g in grads)


def test_exactly_half_a_turn_is_finite_and_takes_the_sign_of_the_end() -> None:
    q0 = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64, requires_grad=True)
    q1 = torch.tensor([[0.0, 0, 0, 1]], dtype=torch.float64)
    omega = SO3.log(q0, q1)
    assert_close(omega.detach(), torch.tensor([[0.0, 0, math.pi]], dtype=torch.float64))
    assert_close(SO3.log(q0, -q1).detach(), -omega.detach())
    (grad,) = torch.autograd.grad(omega.sum(), q0)
    assert grad.isfinite().all()


def test_both_signs_of_a_quaternion_are_one_rotation() -> None:
    q0, q1 = draw(64), draw(64, seed=1)
    for a, b in [(-q0, q1), (q0, -q1), (-q0, -q1)]:
        assert_close(SO3.log(a, b), SO3.log(q0, q1))
        assert_close(
            quat_to_rotmat(SO3.geodesic(a, b, 0.3)), quat_to_rotmat(SO3.geodesic(q0, q1, 0.3))
        )
    assert_close(SO3.log(q0, -q0), torch.zeros(64, 3, dtype=torch.float64), atol=1e-14, rtol=0)


def test_geodesic_reaches_the_end_at_constant_speed() -> None:
    q0, q1 = draw(64), draw(64, seed=1)
    omega = SO3.log(q0, q1)
    assert_close(SO3.exp(q0, omega), up_to_sign(q1, SO3.exp(q0, omega)))
    assert_close(SO3.geodesic(q0, q1, 0.0), q0)
    for t in (0.1, 0.9):
        x_t = SO3.geodesic(q0, q1, t)
        assert_close(SO3.log(x_t, q1) / (1 - t), omega, atol=1e-10, rtol=1e-9)
        assert_close(SO3.move(x_t, omega, -t), q0)


def test_rotation_vectors_round_trip_over_fifteen_decades() -> None:
    direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8]).double(), dim=0)
    angles = torch.from_numpy(np.r_[np.logspace(-12, 0, 40), np.linspace(1, math.pi - 1e-9, 20)])
    v = angles[:, None] * direction
    assert_close(quat_to_rotvec(rotvec_to_quat(v)), v, rtol=1e-12, atol=0)
    assert_close(rotation_angle(rotvec_to_quat(v)), angles, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("function", [rotvec_to_quat, lambda v: quat_to_rotvec(rotvec_to_quat(v))])
@pytest.mark.parametrize("length", [0.0, 1e-9, 1.9e-3, 2.1e-3, 1.0])
def test_maps_are_differentiable_at_and_around_zero(function, length: float) -> None:
    v = torch.tensor([[length, 0, 0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (v,))


def test_matrices_and_quaternions_agree() -> None:
    q = draw(500)
    r = quat_to_rotmat(q)
    identity = torch.eye(3, dtype=torch.float64).expand_as(r)
    assert_close(r @ r.mT, identity)
    assert_close(torch.linalg.det(r), torch.ones(500, dtype=torch.float64))
    back = rotmat_to_quat(r)
    assert (back[:, 0] >= 0).all()
    assert_close(up_to_sign(back, q), q)
    p = draw(500, seed=1)
    assert_close(quat_to_rotmat(quat_multiply(p, q)), quat_to_rotmat(p) @ r)
    assert_close(quat_to_rotmat(quat_conjugate(q)), r.mT)


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_survive_the_matrix(axis: int) -> None:
    q = torch.zeros(4, dtype=torch.float64)
    q[1 + axis] = 1
    assert_close(rotmat_to_quat(quat_to_rotmat(q)), q)


def test_matrix_of_a_quarter_turn_about_z_sends_x_to_y() -> None:
    q = rotvec_to_quat(torch.tensor([0, 0, math.pi / 2], dtype=torch.float64))
    image = quat_to_rotmat(q) @ torch.tensor([1.0, 0, 0]).double()
    assert_close(image, torch.tensor([0.0, 1, 0]).double(), atol=1e-15, rtol=0)


def test_geodesics_turn_with_a_global_rotation() -> None:
    """Body-frame velocities do not change when the world turns; points turn with it."""
    g, q0, q1 = draw(1), draw(32, seed=1), draw(32, seed=2)
    assert_close(SO3.log(quat_multiply(g, q0), quat_multiply(g, q1)), SO3.log(q0, q1))
    turned = SO3.geodesic(quat_multiply(g, q0), quat_multiply(g, q1), 0.4)
    assert_close(turned, quat_multiply(g, SO3.geodesic(q0, q1, 0.4)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_norm_stays_one_over_a_thousand_steps(dtype: torch.dtype, tolerance: float) -> None:
    q, omega = draw(16, dtype=dtype), torch.randn(16, 3, generator=torch.manual_seed(0)).to(dtype)
    end = q
    for _ in range(1000):
        end = SO3.move(end, omega, 1e-3)
    assert (end.norm(dim=-1) - 1).abs().max() < tolerance
    exact = SO3.exp(q.double(), omega.double())
    assert_close(end.double(), exact, atol=100 * tolerance, rtol=0)


def test_prior_angles_follow_the_uniform_law() -> None:
    """Density (1 - cos w) / pi on [0, pi]; 20000 draws, Kolmogorov-Smirnov at p = 0.01."""
    angle = rotation_angle(draw(20_000)).sort().values
    exact = (angle - angle.sin()) / math.pi
    empirical = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
    assert (empirical - exact).abs().max() < 1.63 / math.sqrt(20_000)


@pytest.mark.parametrize("t", [0.25, torch.tensor(0.25), torch.tensor(0.25, dtype=torch.float64)])
@pytest.mark.parametrize("space", [Euclidean(), SO3, SE3], ids=["flat", "so3", "se3"])
def test_times_of_any_form_give_the_same_point_in_the_points_dtype(space, t) -> None:
    shape = (6, 2, 3)
    kwargs = {"trans": shape, "rot": shape[:-1]} if space is SE3 else shape
    x0, x1 = (
        space.prior(kwargs, generator=torch.Generator().manual_seed(s), dtype=torch.float32)
        for s in (0, 1)
    )
    same = [space.geodesic(x0, x1, t), space.geodesic(x0, x1, torch.full((6,), 0.25))]
    for x in same:
        for part, expected in zip(leaves(x), leaves(space.geodesic(x0, x1, 0.25)), strict=True):
            assert part.dtype == torch.float32
            assert_close(part, expected)


def test_each_sample_and_each_residue_may_have_its_own_time() -> None:
    x0, x1 = draw(3, 5), draw(3, 5, seed=1)
    t = torch.rand(3, 5, generator=torch.manual_seed(0), dtype=torch.float64)
    whole = SO3.geodesic(x0, x1, t)
    assert_close(whole[2, 4], SO3.geodesic(x0[2, 4], x1[2, 4], float(t[2, 4])))


def test_product_moves_each_part_in_its_own_space() -> None:
    shape = {"trans": (4, 7, 3), "rot": (4, 7)}
    x0, x1 = (
        SE3.prior(shape, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
        for s in (0, 1)
    )
    v = SE3.log(x0, x1)
    assert v["trans"].shape == v["rot"].shape == (4, 7, 3)
    assert_close(v["trans"], x1["trans"] - x0["trans"])
    assert_close(v["rot"], SO3.log(x0["rot"], x1["rot"]))
    half = SE3.geodesic(x0, x1, 0.5)
    assert_close(SE3.move(half, v, -0.5), x0)
    assert_close(SE3.exp(x0, v)["rot"], SO3.exp(x0["rot"], v["rot"]))


def test_flat_space_is_plain_arithmetic() -> None:
    flat, a, b = Euclidean(), torch.randn(3, 2, 2), torch.randn(3, 2, 2)
    assert_close(flat.exp(a, flat.log(a, b)), b)
    h = torch.tensor([0.1, 0.2, 0.3])
    assert_close(flat.move(a, b, h), a + h[:, None, None] * b)
    assert_close(flat.move({"p": a}, {"p": b}, -2.0), {"p": a - 2 * b})
    assert torch.equal(flat.geodesic(a, b, 1.0), b)


def test_states_are_validated() -> None:
    x = {"trans": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"does not fit the product space.*'rot', 'trans'"):
        SE3.exp(x, x)
    with pytest.raises(ValueError, match="got Tensor"):
        SE3.log(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least one part"):
        Product({})
    with pytest.raises(ValueError, match="same parts"):
        map_state(torch.add, x, {"rot": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="same parts"):
        map_state(torch.add, torch.zeros(2, 3), x)


def test_state_helpers() -> None:
    x = {"a": torch.zeros(5, 3, dtype=torch.float64), "b": torch.zeros(5)}
    assert batch_of(x) == (5, torch.device("cpu"), torch.float64)
    assert [part.shape for part in leaves(x)] == [(5, 3), (5,)]
    assert expand_time(torch.zeros(5), x["a"]).shape == (5, 1)
    assert expand_time(0.5, x["a"]) == 0.5
