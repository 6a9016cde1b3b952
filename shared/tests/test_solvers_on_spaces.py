from __future__ import annotations

import math

import pytest
import torch
from rectiflow.compare import compare_solvers
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.solvers import (
    BDIA,
    RK4,
    Adams,
    DPMSolverPP2M,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
    PseudoCorrector,
    Refine,
)
from rectiflow.spaces import (
    Euclidean,
    Product,
    Rotations,
    quat_conjugate,
    quat_multiply,
    quat_to_rotvec,
)

SPACE = Product({"trans": Euclidean(), "rot": Rotations()})


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def rotate_back(q: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Express a vector of the fixed frame in the body frame of ``q``."""
    pure = torch.cat((torch.zeros_like(v[..., :1]), v), dim=-1)
    return quat_multiply(quat_multiply(quat_conjugate(q), pure), q)[..., 1:]


def turning(q: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
    """A smooth body-frame angular velocity: of time, and of the orientation."""
    t = float(t)
    fixed = torch.tensor([math.cos(3 * t), 1.2 * math.sin(2 * t), 0.8], dtype=q.dtype)
    own = torch.tensor([0.5, -0.9, 0.3 + t], dtype=q.dtype)
    return rotate_back(q, fixed.expand(*q.shape[:-1], 3)) * 1.5 + own


def frames(x: dict[str, torch.Tensor], t: float | torch.Tensor) -> dict[str, torch.Tensor]:
    """Both parts drive each other."""
    push = rotate_back(x["rot"], x["trans"])
    return {"trans": torch.sin(push) - 0.3 * x["trans"], "rot": turning(x["rot"], t) + 0.2 * push}


def embedded_rate(x: torch.Tensor, t: float | torch.Tensor) -> torch.Tensor:
    """The same rotation field as the derivative of the quaternion's four numbers."""
    pure = torch.cat((torch.zeros_like(x[..., :1]), turning(x, t)), dim=-1)
    return quat_multiply(x, pure) / 2


@pytest.fixture(scope="module")
def start() -> torch.Tensor:
    return Rotations().prior((16,), generator=generator(), dtype=torch.float64)


@pytest.fixture(scope="module")
def exact(start) -> torch.Tensor:
    """RK4 in the four-dimensional space around the sphere: no exponential map involved."""
    return integrate(embedded_rate, start, plan(uniform(400), RK4()))


def angle(x: torch.Tensor, y: torch.Tensor) -> float:
    difference = quat_to_rotvec(quat_multiply(quat_conjugate(x), y))
    return difference.square().sum(-1).mean().sqrt().item()


@pytest.mark.parametrize(
    ("solver", "order"), [(Euler(), 1), (Midpoint(), 2), (FireFlow(), 2)], ids=str
)
def test_order_on_rotations(solver, order, start, exact):
    errors = [
        angle(integrate(turning, start, plan(uniform(n), solver), space=Rotations()), exact)
        for n in (64, 128)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver", [Euler(), Midpoint(), FireFlow()], ids=str)
def test_rotations_stay_of_unit_norm(solver, start):
    end = integrate(turning, start, plan(uniform(50), solver), space=Rotations())
    torch.testing.assert_close(
        end.norm(dim=-1), torch.ones(16, dtype=torch.float64), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Midpoint(), 2)], ids=str)
def test_order_of_inversion_on_rotations(solver, order, start):
    def round_trip(n: int) -> float:
        moves = plan(uniform(n), solver)
        there = integrate(turning, start, reverse(moves), space=Rotations())
        return angle(integrate(turning, there, moves, space=Rotations()), start)

    assert round_trip(64) / round_trip(128) >= 0.7 * 2**order


@pytest.mark.parametrize(("solver", "order"), [(Euler(), 1), (Midpoint(), 2)], ids=str)
def test_order_on_a_product(solver, order):
    x0 = {
        "trans": torch.randn(8, 3, generator=generator(), dtype=torch.float64),
        "rot": Rotations().prior((8,), generator=generator(), dtype=torch.float64),
    }
    fine = integrate(frames, x0, plan(uniform(512), Midpoint()), space=SPACE)

    def error(n: int) -> float:
        end = integrate(frames, x0, plan(uniform(n), solver), space=SPACE)
        return angle(end["rot"], fine["rot"]) + (end["trans"] - fine["trans"]).norm().item()

    assert math.log2(error(32) / error(64)) == pytest.approx(order, abs=0.15)


def test_a_constant_body_velocity_is_followed_exactly(start):
    v = torch.tensor([[0.3, -2.0, 1.1]], dtype=torch.float64).expand(16, 3)
    for solver in (Euler(), Midpoint(), FireFlow()):
        end = integrate(lambda x, t: v, start, plan(uniform(7), solver), space=Rotations())
        assert angle(end, Rotations().exp(start, v)) < 1e-14


@pytest.mark.parametrize(
    "solver",
    [
        Heun(),
        RK4(),
        Adams(2),
        PseudoCorrector(),
        Refine(lambda x, t, v: v),
        BDIA(),
        DPMSolverPP2M(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("space", [Rotations(), SPACE], ids=["Rotations", "Product"])
def test_adding_velocities_of_different_points_is_refused(solver, space, start):
    with pytest.raises(
        ValueError,
        match=rf"adds velocities of different points, got the curved space {type(space).__name__}",
    ):
        integrate(turning, start, plan(uniform(4), solver), space=space)


def test_flatness():
    assert Euclidean().is_flat
    assert Product({"a": Euclidean(), "b": Euclidean()}).is_flat
    assert not Rotations().is_flat
    assert not SPACE.is_flat


def test_every_solver_runs_on_a_flat_product():
    flat = Product({"a": Euclidean(), "b": Euclidean()})
    x0 = {"a": torch.ones(2, 1), "b": torch.ones(2, 3)}

    def decay(x, t):
        return {name: -part for name, part in x.items()}

    end = integrate(decay, x0, plan(uniform(10), RK4()), space=flat)
    torch.testing.assert_close(end["b"], torch.full((2, 3), math.exp(-1)), rtol=1e-6, atol=0)


def test_compare_solvers_leaves_out_what_a_curved_space_forbids(start):
    rows = compare_solvers(turning, start, [20], space=Rotations())
    assert [row.solver for row in rows] == sorted(
        (row.solver for row in rows), key=lambda s: -s.order
    )
    assert {type(row.solver) for row in rows} == {Euler, Midpoint, FireFlow}
