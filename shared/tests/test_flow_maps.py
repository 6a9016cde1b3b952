"""Networks of maps: the three equations vanish at exact maps, on flat and on curved spaces."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from rectiflow import Pretrained
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.fields import bind
from rectiflow.flow import Flow
from rectiflow.geodesics import Geodesic
from rectiflow.grids import uniform
from rectiflow.guidance import batched_cfg
from rectiflow.integrate import integrate, plan
from rectiflow.paths import VariancePreserving
from rectiflow.predictions import Data
from rectiflow.premetrics import MeanSquared, PartWeights, PseudoHuber
from rectiflow.rectify import (
    Difference,
    FlowMapObjective,
    Forward,
    Halvings,
    Jump,
    Lagrangian,
    MeanFlow,
    Semigroup,
    Spans,
    solver_for,
    to_map,
)
from rectiflow.rectify.flow_map import Until, added
from rectiflow.solvers import Euler, Midpoint
from rectiflow.spaces import Euclidean, Product, Rotations, quat_multiply
from rectiflow.spaces.rotations import rotvec_to_quat
from torch import nn

FLAT, TURNS = Euclidean(), Rotations()
LOSSES = [MeanFlow(), Lagrangian(), Semigroup(), Semigroup(at=0.3)]
MEAN, WIDTH = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 1.5]).double()
S = torch.tensor([0.0, 0.1, 0.35, 0.6, 0.6]).double()
T = torch.tensor([1.0, 0.4, 0.9, 0.6, 0.95]).double()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(t):
    return ((1 - t) ** 2 + WIDTH**2 * t**2).sqrt()


def gaussian_map(x, s, t):
    """From noise to a normal law with diagonal covariance: each axis is scaled and shifted."""
    s, t = s[:, None], t[:, None]
    return MEAN * t + spread(t) / spread(s) * (x - MEAN * s)


def gaussian_velocity(x, t):
    t = t[:, None]
    return MEAN + (WIDTH**2 * t - (1 - t)) / spread(t) ** 2 * (x - MEAN * t)


def gaussian_mean(x, s, t):
    """The mean velocity, in a form that is regular where the way has no length."""
    s, t = s[:, None], t[:, None]
    rise = (WIDTH**2 * (s + t) - (2 - s - t)) / (spread(s) + spread(t))  # of the spread, over t - s
    return MEAN + rise / spread(s) * (x - MEAN * s)


A, B = torch.tensor([0.3, -1.1, 0.8]).double(), torch.tensor([1.2, 0.4, -0.5]).double()


def turned(q, s, t):
    """A rotation from the left, faster and faster, and one from the right: they do not commute."""
    left = rotvec_to_quat((t**2 - s**2)[:, None] * A)
    right = rotvec_to_quat((t.sin() - s.sin())[:, None] * B)
    return quat_multiply(quat_multiply(left, q), right)


def turning(q, t):
    """The velocity of it in the moving frame, ``q⁻¹ dq``."""
    body = TURNS.log(q, quat_multiply(rotvec_to_quat(1e-4 * A), q)) / 1e-4  # Ad(q⁻¹) A, exactly
    return 2 * t[:, None] * body + t.cos()[:, None] * B


def turning_mean(q, s, t):
    span = (t - s)[:, None]
    return torch.where(
        span == 0, turning(q, s), TURNS.log(q, turned(q, s, t)) / torch.where(span == 0, 1, span)
    )


def residual(loss, mean, velocity, x, space):
    said, target = loss(mean, velocity, x, S, T, velocity(x, S), space)
    return max(
        (a - b).abs().max().item()
        for a, b in zip(
            (said if isinstance(said, dict) else {"": said}).values(),
            (target if isinstance(target, dict) else {"": target}).values(),
            strict=True,
        )
    )


def product_of(flat, turn):
    return lambda x, *times: {"at": flat(x["at"], *times), "rot": turn(x["rot"], *times)}


CASES = {
    "flat": (FLAT, gaussian_mean, gaussian_velocity, draw(5, 2)),
    "turns": (TURNS, turning_mean, turning, TURNS.exp(draw(5, 4), draw(5, 3))),
    "product": (
        Product({"at": FLAT, "rot": TURNS}),
        product_of(gaussian_mean, turning_mean),
        product_of(gaussian_velocity, turning),
        {"at": draw(5, 2), "rot": TURNS.exp(draw(5, 4), draw(5, 3))},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_every_equation_holds_at_the_exact_map(case, loss):
    space, mean, velocity, x = CASES[case]
    assert residual(loss, mean, velocity, x, space) < 1e-6
    if case == "flat":  # and at no other
        wrong = lambda x, s, t: mean(x, s, t) + 0.1 * (t - s)[:, None]  # noqa: E731
        assert residual(loss, wrong, velocity, x, space) > 1e-2


@pytest.mark.parametrize("kind", [MeanFlow, Lagrangian])
def test_differences_stand_in_for_derivatives(kind):
    for space, mean, velocity, x in CASES.values():
        assert residual(kind(Difference(0.01)), mean, velocity, x, space) < 2e-3
        assert residual(kind(Forward()), mean, velocity, x, space) < 1e-6


def test_exponential_derivative_of_rotations():
    w, v = draw(6, 3, seed=1), draw(6, 3, seed=2)
    w[1], w[2], w[3] = 0.0, 1e-3 * w[2], 0.09 * w[3]
    q, h = TURNS.exp(draw(6, 4), torch.zeros(6, 3).double()), 1e-5
    ahead, behind = (TURNS.exp(q, w + k * h * v) for k in (1, -1))
    measured = TURNS.log(behind, ahead) / (2 * h)
    assert torch.allclose(TURNS.dexp(w, v), measured, atol=1e-6)
    assert torch.equal(FLAT.dexp(w, v), v)


def mixture(*means, width):
    centres = torch.tensor(means).double()
    spread = width**2 * torch.eye(2).double().expand(len(means), 2, 2)
    return GaussianMixtureFlow(torch.full((len(means),), 1 / len(means)).double(), centres, spread)


class Exact(nn.Module):
    """A closed form, computed in float64."""

    def __init__(self, velocity):
        super().__init__()
        self.velocity = velocity

    def forward(self, x, t):
        return self.velocity(x.double(), t.double()).to(x)


def test_mixtures_compose_and_move_as_their_velocity():
    flow = mixture((2.0, 0.0), (-1.0, 1.0), width=0.5)
    carry = partial(flow.flow_map, tolerance=1e-10)
    x = draw(6, 2)
    whole = carry(x, 0.1, 0.9)
    assert torch.allclose(whole, carry(carry(x, 0.1, 0.5), 0.5, 0.9), atol=1e-8)
    assert torch.allclose(carry(whole, 0.9, 0.1), x, atol=1e-8)
    h = 1e-3
    rate = (carry(x, 0.1, 0.9 + h) - carry(x, 0.1, 0.9 - h)) / (2 * h)
    assert torch.allclose(rate, flow.velocity(whole, 0.9), atol=1e-5)

    def mean(x, s, t):
        start, stop = s[0].item(), t[0].item()
        end = carry(x, start, stop)
        return (end - x) / (stop - start) if stop > start else flow.velocity(x, start)

    s, t = torch.full((6,), 0.2).double(), torch.full((6,), 0.7).double()
    v = flow.velocity(x, 0.2)
    told = (mean, lambda x, t: flow.velocity(x, t[0].item()), x, s, t, v, FLAT)
    for loss, bound in [(MeanFlow(Difference(0.02)), 2e-3), (Semigroup(), 1e-7)]:
        said, target = loss(*told)
        assert (said - target).abs().max() < bound


@pytest.mark.parametrize("steps", [1, 3])
def test_jumps_are_exact_on_every_space(steps):
    start, stop = torch.zeros(5).double(), torch.ones(5).double()
    for space, exact, mean in [(FLAT, gaussian_map, gaussian_mean), (TURNS, turned, turning_mean)]:
        x = CASES["flat" if space == FLAT else "turns"][3]
        model = lambda x, t, until, mean=mean: mean(x, t, until)  # noqa: E731
        out = integrate(bind(model), x, plan(uniform(steps), Jump()), space=space)
        assert torch.allclose(out, exact(x, start, stop), atol=1e-10)


def test_the_end_of_a_move_passes_through_flow_and_guidance():
    def model(x, t, cond=None, until=None):
        far = (0.0 if until is None else until - t)[:, None]
        return x + (0.0 if cond is None else cond) + far

    x, one = torch.ones(2, 1), torch.ones(2, 1)
    guided = batched_cfg(model, one, 0 * one, 2.0)
    assert torch.allclose(guided(x, 0.25, 0.75), x + 2.0 + 0.5)
    flow = Flow(path=VariancePreserving(), prediction=Data())
    told = flow.velocity(model)(x, 0.25, 0.75)
    assert torch.equal(told, flow.path.from_data(x + 0.5, x, 0.25))


class Small(Pretrained, nn.Module):
    """A network of points in the plane."""

    def __init__(self, width=48, is_map=False):
        super().__init__()
        self.is_map = is_map
        self.embed = nn.Linear(3, width)
        self.until = Until(width) if is_map else None
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.out = nn.Linear(width, 2)

    def forward(self, x, t, until=None):
        h = added(self.embed(torch.cat([x, t[:, None]], 1)), self.until, t, until)
        return self.out(self.rest(h))


def test_a_map_says_what_its_parent_said():
    torch.manual_seed(0)
    parent = Small().double().eval()
    made = to_map(parent)
    x, t = draw(4, 2), torch.rand(4).double()
    assert torch.equal(made(x, t, until=torch.ones(4).double()), parent(x, t))
    assert torch.equal(made(x, t), parent(x, t))
    assert made.is_map
    assert not made.training
    assert made is not to_map(made)
    assert solver_for(made, Euler()) == Jump()
    assert solver_for(made, Midpoint()) == Midpoint()
    assert solver_for(parent, Euler()) == Euler()
    with pytest.raises(ValueError, match="tells velocities at one time"):
        parent(x, t, until=t)
    with pytest.raises(TypeError, match="Linear cannot be told two times"):
        to_map(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="is no network of maps"):
        FlowMapObjective(parent, Flow())


def test_laws_of_two_times():
    generator = torch.Generator().manual_seed(0)
    s, t = Spans(instant=0.25, latest=0.9).sample(4000, generator, "cpu", torch.float32)
    assert (s <= t).all()
    assert s.max() <= 0.9 < t.max()
    assert abs((s == t).float().mean() - 0.25) < 0.03
    s, t = Halvings(instant=0.5, levels=3).sample(4000, generator, "cpu", torch.float32)
    way = (t - s)[s < t]
    assert set(way.tolist()) == {1.0, 0.5, 0.25}
    assert torch.equal((s[s < t] / way).round() * way, s[s < t])
    assert t.max() == 1.0
    with pytest.raises(ValueError, match="instant must be a share"):
        Spans(instant=2.0)
    with pytest.raises(ValueError, match="must lie inside the way"):
        Semigroup(at=1.0)


def test_no_gradient_flows_through_targets_and_derivatives():
    torch.manual_seed(0)
    network = to_map(Small(8))
    x, s, t = torch.randn(6, 2), torch.full((6,), 0.2), torch.full((6,), 0.7)
    mean = lambda x, s, t: network(x, s, until=t)  # noqa: E731
    field = lambda x, t: network(x, t, until=t)  # noqa: E731
    for loss in LOSSES:
        said, target = loss(mean, field, x, s, t, torch.zeros(6, 2), FLAT)
        assert not target.requires_grad
        # On flat space the loss sees u alone: d said / d u is the identity.
        got = torch.autograd.grad(said.sum(), network.out.bias)[0]
        assert torch.allclose(got, torch.full((2,), 6.0))


@pytest.mark.parametrize(
    ("loss", "spans"),
    [(MeanFlow(), Spans()), (Semigroup(), Halvings(levels=4)), (Lagrangian(), Spans())],
    ids=["meanflow", "shortcut", "lagrangian"],
)
def test_learned_maps_jump_where_euler_cannot(loss, spans):
    """One jump of a trained map against one step along the exact velocity."""
    torch.manual_seed(0)
    robust = Flow(premetric=PseudoHuber(factor=0.1))  # with squares the derivatives run away
    objective = FlowMapObjective(
        to_map(Small()), robust, loss, spans, teacher=Exact(gaussian_velocity)
    )
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(objective.network.parameters(), lr=7e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200)
    for _ in range(200):
        x1 = (MEAN + WIDTH * torch.randn(128, 2, generator=generator)).float()
        optimizer.zero_grad()
        objective({"x1": x1}, generator)["loss"].backward()
        optimizer.step()
        schedule.step()
    x0 = torch.randn(512, 2, generator=generator)
    exact = MEAN + WIDTH * x0
    jumped = integrate(Flow().velocity(objective.network), x0, plan(uniform(1), Jump()))
    stepped = integrate(bind(objective.teacher), x0, plan(uniform(1), Euler()))
    error, of_euler = ((y - exact).square().sum(1).mean().sqrt() for y in (jumped, stepped))
    assert error < 0.5 * of_euler


def test_chains_of_frames_train_on_products():
    space = Product({"at": FLAT, "rot": TURNS})
    cost = PartWeights({"at": (1.0, MeanSquared()), "rot": (1.0, MeanSquared())})
    flow = Flow(path=Geodesic(space), prediction=Data(), premetric=cost)

    class Frames(nn.Module):
        is_map = True

        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

        def forward(self, x, t, until):
            return {"at": x["at"] + self.shift, "rot": TURNS.exp(x["rot"], self.shift.expand(4, 3))}

    network = Frames()
    turns = TURNS.exp(draw(4, 4), draw(4, 3))
    batch = {"x1.at": draw(4, 3).float(), "x1.rot": turns.float()}
    for loss in (MeanFlow(), Semigroup(), Lagrangian(Difference())):
        objective = FlowMapObjective(network, flow, loss, Spans(instant=0.5, latest=0.9))
        terms = objective(batch, torch.Generator().manual_seed(0))
        terms["loss"].backward()
        assert math.isfinite(terms["loss"].item())
        assert torch.isfinite(network.shift.grad).all()
    exact = replace(flow, weight=lambda t: 0 * t)
    assert FlowMapObjective(network, exact)(batch, torch.Generator())["loss"] == 0
