"""Consistency, the anchored sampler, diffusion networks as flows, perceptual losses, order 1."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from rectiflow.diagnostics import first_order_defect
from rectiflow.fields import bind
from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.paths import Linear, SubVariancePreserving, VariancePreserving
from rectiflow.predictions import Data, Noise, Velocity
from rectiflow.premetrics import ElementwiseHuber, MeanSquared, PseudoHuber
from rectiflow.randomness import KeyedNoise
from rectiflow.rectify import (
    Anchored,
    ConsistencyDistillation,
    ConsistencyStep,
    Decoded,
    EdmVelocity,
    NoiseVelocity,
    PerceptualObjective,
)
from rectiflow.rectify.denoisers import Preconditioning
from rectiflow.solvers import DDIM, Euler, Heun
from rectiflow.states import combine
from rectiflow.training import FlowObjective
from torch import nn

MEAN, WIDTH = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 1.5]).double()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Field(nn.Module):
    """A closed form as a network; in its one parameter it may be wrong."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.off = fn, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, t):
        return self.fn(x, t[:, None]) + self.off


def normal_data(x, t, path=None):
    """``E[x1 | x_t]`` of normal data with independent axes."""
    a, b, _, _ = (path or Linear()).coeffs(t)
    return MEAN + a * WIDTH**2 / (a**2 * WIDTH**2 + b**2) * (x - a * MEAN)


def normal_velocity(x, t):
    return MEAN + (WIDTH**2 * t - (1 - t)) / spread(t) ** 2 * (x - MEAN * t)


def spread(t):
    return ((1 - t) ** 2 + WIDTH**2 * t**2).sqrt()


def to_the_end(x, t):
    """The velocity whose line leads where the flow ends: the consistency function's."""
    ratio = WIDTH / spread(t)
    return (MEAN + ratio * (x - MEAN * t) - x) / (1 - t).clamp_min(1e-12)


def test_consistency_holds_at_the_exact_function_and_no_other():
    batch = {"x1": MEAN + WIDTH * draw(256, 2)}
    made = partial(ConsistencyDistillation, flow=Flow(), teacher=Field(normal_velocity))
    told = {"times": uniform(40), "solver": Heun()}
    right = made(Field(to_the_end), **told)
    generator = torch.Generator().manual_seed(1)
    assert right(batch, generator)["loss"] < 1e-6
    assert made(Field(normal_velocity), **told)(batch, generator)["loss"] > 1e-4
    # Of the target nothing flows back, and at the data the function is the identity.
    loss = right(batch, generator)["loss"]
    loss.backward()
    assert torch.isfinite(right.network.off.grad)
    x, one = draw(3, 2), torch.ones(3).double()
    assert torch.equal(right.ends(x, one), x)
    said_data = Flow(prediction=Data())
    network = Field(lambda x, t: x + 5)
    assert torch.equal(ConsistencyDistillation(network, said_data).ends(x, one), x)
    with pytest.raises(ValueError, match="skip must be at least 1"):
        made(Field(to_the_end), skip=0)


def test_consistency_training_needs_no_teacher():
    """Along the line of a pair: for one data point the function is that point, exactly."""
    point = torch.tensor([0.3, -0.7]).double()
    network = Field(lambda x, t: (point - x) / (1 - t).clamp_min(1e-12))
    objective = ConsistencyDistillation(network, Flow(), times=uniform(20), skip=3)
    batch = {"x1": point.expand(64, 2)}
    assert objective(batch, torch.Generator().manual_seed(0))["loss"] < 1e-20


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_consistency_sampler_keeps_the_law(steps):
    field, n = bind(Field(to_the_end)), 4096
    x0, noise = draw(n, 2, seed=2), KeyedNoise(0, range(n))
    x = integrate(field, x0, plan(uniform(steps), ConsistencyStep()), noise=noise)
    if steps == 1:
        assert torch.allclose(x, MEAN + WIDTH * x0, atol=1e-12)
    assert torch.allclose(x.mean(0), MEAN, atol=0.1)
    assert torch.allclose(x.std(0), WIDTH, rtol=0.05)
    with pytest.raises(ValueError, match="draws noise, got none"):
        integrate(field, x0, plan(uniform(2), ConsistencyStep()))


def test_anchored_sampler_goes_back_to_its_first_noise():
    field = bind(Field(normal_velocity))
    x0 = draw(8, 2)
    x, times = x0, uniform(4)
    for s, t in pairwise(times):
        data = x + (1 - s) * field(x, s)
        x = t * data + (1 - t) * x0
    assert torch.allclose(integrate(field, x0, plan(times, Anchored())), x, atol=1e-12)
    # On straight pairs it is exact, as Euler's method is.
    scale = torch.tensor([0.2, 3.0]).double()
    straight = bind(Field(lambda x, t: (scale - 1) / (1 - t + t * scale) * x))
    for solver in (Anchored(), Euler()):
        end = integrate(straight, x0, plan(uniform(5), solver))
        assert torch.allclose(end, scale * x0, atol=1e-12)
    # A run that starts on the way takes the noise of its first prediction.
    late = integrate(straight, 0.5 * (1 + scale) * x0, plan([0.5, 0.7, 1.0], Anchored()))
    assert torch.allclose(late, scale * x0, atol=1e-12)


def test_an_edm_denoiser_is_a_straight_flow(golden):
    table = np.load(golden("core_analytic.npz"))
    sigma = torch.as_tensor(table["edm/sigma"]).double()
    wanted = torch.as_tensor(table["edm/precond"]).double()
    found = torch.stack(Preconditioning.at(sigma), 1)
    assert torch.allclose(found, wanted[:, :4], rtol=1e-12)

    def raw(scaled, told):
        """F of the exact denoiser of ``x = y + sigma n``."""
        level = (4 * told).exp()[:, None]
        f = Preconditioning.at(level)
        x = scaled / f.scaled
        data = MEAN + WIDTH**2 / (WIDTH**2 + level**2) * (x - MEAN)
        return (data - f.skip * x) / f.out

    x, t = draw(6, 2), torch.linspace(0.05, 0.95, 6).double()
    assert torch.allclose(EdmVelocity(raw)(x, t), normal_velocity(x, t[:, None]), atol=1e-9)
    assert torch.isfinite(EdmVelocity(raw)(x, torch.tensor([0.0] * 3 + [1.0] * 3).double())).all()


@pytest.mark.parametrize("path", [VariancePreserving(), SubVariancePreserving()])
def test_a_noise_network_is_a_straight_flow(path):
    def network(x, level):
        t = 1 - level[:, None] / 999
        at = path.coeffs(t)
        return (x - at.a * normal_data(x, t, path)) / at.b

    x, t = draw(6, 2), torch.linspace(0.05, 0.9, 6).double()
    flow = NoiseVelocity(network, path)
    assert torch.allclose(flow(x, t), normal_velocity(x, t[:, None]), atol=1e-8)
    assert torch.isfinite(flow(x, torch.zeros(6).double())).all()


def test_sub_vp_has_its_coefficients():
    path, vp = SubVariancePreserving(), VariancePreserving()
    for t in (0.0, 0.3, 0.9, 1.0):
        found, of_vp = path.coeffs(t), vp.coeffs(t)
        assert found.a == of_vp.a
        assert found.b == pytest.approx(1 - of_vp.a**2, abs=1e-12)
        if 0 < t < 1:
            h = 1e-6
            rate = (path.coeffs(t + h).b - path.coeffs(t - h).b) / (2 * h)
            assert found.db == pytest.approx(rate, rel=1e-6)
            assert path.t_of_lam(path.lam(t)) == pytest.approx(t, abs=1e-10)


@pytest.mark.parametrize("path", [Linear(), VariancePreserving(), SubVariancePreserving()])
@pytest.mark.parametrize("prediction", [Velocity(), Noise(), Data()])
def test_rectified_pairs_are_of_first_order_on_every_path(path, prediction):
    """Trained on its own pairs, any form tells one noise along a path; DDIM then needs one step."""
    scale = torch.tensor([0.2, 3.0]).double()

    def exact(x, t):  # of the pairs x1 = scale x0
        c = path.coeffs(t[:, None])
        noise = x / (c.a * scale + c.b)
        said = {
            Velocity: combine((c.da, c.db), (scale * noise, noise)),
            Noise: noise,
            Data: scale * noise,
        }
        return said[type(prediction)]

    flow = Flow(path=path, prediction=prediction, premetric=ElementwiseHuber())
    x0 = draw(16, 2)
    batch = {"x0": x0, "x1": scale * x0}
    told = {"t": torch.linspace(0.01, 0.98, 16).double(), "x0": x0}
    assert flow.loss(exact, batch["x1"], **told).loss < 1e-12
    field = flow.velocity(exact)
    inside = [0.002 + 0.99 * t for t in uniform(40)]
    start = path.interpolate(x0, batch["x1"], inside[0])[0]
    noise = path.noise(field(start, inside[0]), start, inside[0])
    assert torch.allclose(noise, x0, atol=1e-8)
    bent = flow.velocity(
        lambda x, t: {
            Velocity: lambda d, e, c: combine((c.da, c.db), (d, e)),
            Noise: lambda d, e, c: e,
            Data: lambda d, e, c: d,
        }[type(prediction)](
            d := normal_data(x, t[:, None], path),
            (x - path.coeffs(t[:, None]).a * d) / path.coeffs(t[:, None]).b,
            path.coeffs(t[:, None]),
        )
    )
    defect, of_base = (
        first_order_defect(f, path, start, grid=inside, solver=DDIM(path)).total
        for f in (field, bent)
    )
    # The state at 0.002 is not quite noise, which is all that is left of the defect.
    assert defect < 1e-2 * of_base
    end = integrate(field, start, plan([inside[0], 1.0], DDIM(path)))
    assert torch.allclose(end, scale * x0, atol=1e-7)


def test_perceptual_losses_are_their_formulas():
    decode = lambda z: torch.cat([z, z.square()], 1)  # noqa: E731
    cost = Decoded(decode, MeanSquared())
    a, b = draw(5, 2, seed=1), draw(5, 2, seed=2)
    assert torch.allclose(cost(a, b), (decode(a) - decode(b)).square().mean(1))
    assert torch.equal(cost(a, a), torch.zeros(5).double())
    with pytest.raises(ValueError, match="no mask"):
        cost(a, b, torch.ones(5, 2, dtype=torch.bool))
    network, flow = Field(lambda x, t: 0.5 * x), Flow(premetric=PseudoHuber())
    batch = {"x0": a, "x1": b}
    for divided in (False, True):
        objective = PerceptualObjective(network, flow, cost, divided=divided)
        found = objective(batch, torch.Generator().manual_seed(3))["loss"]
        out = flow.loss(network, b, x0=a, generator=torch.Generator().manual_seed(3))
        further = cost(out.x_t + (1 - out.t[:, None]) * out.prediction, b)
        further = further / (1 - out.t) if divided else further
        assert torch.allclose(found, (out.t * out.per_sample + further).mean())
    plain = FlowObjective(network, flow)(batch, torch.Generator().manual_seed(3))["loss"]
    assert torch.equal(plain, out.loss)
