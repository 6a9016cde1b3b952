"""The flow-matching loss: targets, minimiser, spaces, masks, couplings."""

from __future__ import annotations

import dataclasses
import math

import pytest
import rectiflow
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.couplings import Annealed, LinearAnnealing, MinibatchOT, Paired
from rectiflow.flow import Flow
from rectiflow.geodesics import Geodesic
from rectiflow.interpolants import Brownian, Interpolant, Quadratic, SineSquared
from rectiflow.paths import Linear, Trigonometric, VariancePreserving
from rectiflow.predictions import Data, Noise, Score, Velocity
from rectiflow.premetrics import MeanSquared, PartWeights
from rectiflow.sources import Normal, Prior
from rectiflow.spaces import Euclidean, Product, Rotations, quat_multiply
from rectiflow.time_density import Discrete, Uniform
from torch.testing import assert_close

SE3 = Product({"trans": Euclidean(), "rot": Rotations()})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def frames(seed: int, batch: int = 5, n: int = 4) -> dict[str, torch.Tensor]:
    return {
        "trans": randn(batch, n, 3, seed=seed),
        "rot": Rotations().prior((batch, n), generator=generator(seed), dtype=torch.float64),
    }


def zero(x, t):
    return torch.zeros_like(x)


def test_loss_is_the_textbook_formula() -> None:
    x0, x1, t = randn(6, 3, 2), randn(6, 3, 2, seed=1), torch.rand(6, generator=generator())
    model = torch.nn.Linear(2, 2).double()
    out = Flow().loss(lambda x, s: model(x) * s[:, None, None], x1, x0=x0, t=t)
    s = t[:, None, None].double()
    x_t = (1 - s) * x0 + s * x1
    assert_close(out.x_t, x_t)
    assert_close(out.target, x1 - x0)
    assert_close(out.prediction, model(x_t) * s)
    assert_close(out.per_sample, (model(x_t) * s - x1 + x0).square().mean((1, 2)))
    assert_close(out.loss, out.per_sample.mean())
    out.loss.backward()
    assert model.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
def test_every_path_supplies_its_own_point_and_target(path) -> None:
    x0, x1 = randn(4, 2), randn(4, 2, seed=1)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9]).double()
    out = Flow(path=path).loss(zero, x1, x0=x0, t=t)
    x_t, target = path.interpolate(x0, x1, t)
    assert torch.equal(out.x_t, x_t)
    assert torch.equal(out.target, target)


def test_exact_field_beats_its_perturbations() -> None:
    """The minimiser is the conditional expectation."""
    one = torch.ones(1)
    exact = GaussianMixtureFlow(one, torch.tensor([[2.0]]), torch.tensor([[[0.5]]]))
    x1 = exact.sample(20_000, generator=generator())
    losses = [
        Flow().loss(model, x1, generator=generator(1)).loss
        for model in (
            exact,
            lambda x, t: exact(x, t) + 0.1,
            lambda x, t: exact(x, t) * 1.1,
            lambda x, t: exact(x, t) + 0.1 * x,
        )
    ]
    assert all(losses[0] < other for other in losses[1:])


def test_noise_and_times_come_from_the_generator_alone() -> None:
    x1 = torch.zeros(8, 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = (Flow().loss(zero, x1, generator=generator(4)) for _ in range(2))
    assert torch.equal(a.x_t, b.x_t)
    assert torch.equal(a.t, b.t)
    assert torch.equal(torch.get_rng_state(), before)
    assert a.t.dtype == torch.float32
    assert not torch.equal(a.t, Flow().loss(zero, x1, generator=generator(5)).t)


def test_source_and_density_are_used() -> None:
    flow = Flow(source=Normal(5.0, 0.1), density=Discrete(1))
    out = flow.loss(zero, torch.zeros(500, 2), generator=generator())
    assert (out.t == 0).all()
    assert_close(out.x_t.mean(), torch.tensor(5.0), atol=0.05, rtol=0)


def test_condition_is_the_third_argument_and_only_when_given() -> None:
    seen = []

    def model(x, t, *rest):
        seen.append(rest)
        return x

    x1 = torch.zeros(3, 2)
    cond = {"label": torch.arange(3)}
    Flow().loss(model, x1, cond, generator=generator())
    Flow().loss(model, x1, generator=generator())
    assert seen == [(cond,), ()]
    assert torch.equal(Flow().velocity(model, cond)(x1, 0.5), x1)
    assert seen[2] == (cond,)


def test_weight_multiplies_each_sample() -> None:
    x1 = randn(6, 2)
    plain = Flow().loss(zero, x1, generator=generator())
    weighted = Flow(weight=lambda t: (1 - t) ** 2).loss(zero, x1, generator=generator())
    assert_close(weighted.per_sample, plain.per_sample * (1 - plain.t) ** 2)


def test_mask_reaches_the_premetric() -> None:
    x1, mask = randn(2, 5, 3), torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    out = Flow().loss(zero, x1, mask=mask, generator=generator())
    assert_close(out.per_sample[0], out.target[0, :2].square().mean())


def test_half_precision_data_makes_a_single_precision_path() -> None:
    out = Flow().loss(
        lambda x, t: x.bfloat16(), torch.zeros(3, 2).bfloat16(), generator=generator()
    )
    assert out.x_t.dtype == out.target.dtype == out.loss.dtype == torch.float32


def test_given_entries_keep_their_data() -> None:
    x1, moving = randn(3, 5, 2), torch.tensor([True, False, True, True, False]).expand(3, 5)
    (free,) = Flow().points(x1, generator=generator())
    (held,) = Flow().points(x1, moving=moving, generator=generator())
    assert torch.equal(held.x[~moving], x1[~moving])
    assert torch.equal(held.x[moving], free.x[moving])
    assert torch.equal(held.velocity[moving], free.velocity[moving])
    assert (held.velocity[~moving] == 0).all()


# ---------------------------------------------------------------- predictions

MIXTURE = {
    "weights": torch.tensor([0.3, 0.7]),
    "means": torch.tensor([[-1.0, 1.0], [2.0, 0.0]]),
    "covs": torch.stack([torch.eye(2) * 0.3, torch.tensor([[1.0, 0.4], [0.4, 0.5]])]),
}


@pytest.mark.parametrize("path", [Linear(), Trigonometric(), VariancePreserving()])
@pytest.mark.parametrize("prediction", [Velocity(), Data(), Noise(), Score()])
def test_every_prediction_has_the_exact_field_as_its_minimiser(path, prediction) -> None:
    """What each kind of network should learn has the least loss and gives one velocity."""
    exact = GaussianMixtureFlow(**MIXTURE, path=path)
    said = {Velocity(): exact.velocity, Data(): exact.data, Noise(): exact.noise}
    model = said.get(prediction, exact.score)
    flow = Flow(path=path, prediction=prediction, density=Uniform(0.1, 0.9))
    x = randn(9, 2, seed=4)
    for t in (0.2, 0.7):
        assert_close(flow.velocity(model)(x, t), exact.velocity(x, t), rtol=1e-9, atol=1e-9)
    x1 = exact.sample(20_000, generator=generator())
    losses = [
        flow.loss(other, x1, generator=generator(1)).loss
        for other in (model, lambda x, t: model(x, t) + 0.1, lambda x, t: 1.1 * model(x, t))
    ]
    assert losses[0] < min(losses[1:])


GAMMAS = [Brownian(), Brownian(0.25), Quadratic(), SineSquared(0.5)]


@pytest.mark.parametrize("gamma", GAMMAS, ids=repr)
@pytest.mark.parametrize("prediction", [Velocity(), Noise()])
def test_losses_of_an_interpolant_have_its_fields_as_minimisers(gamma, prediction) -> None:
    path = Interpolant(Trigonometric(), gamma)
    exact = GaussianMixtureFlow(**MIXTURE, path=path, source_mean=torch.tensor([0.0, -2.0]))
    model = exact.velocity if prediction == Velocity() else exact.denoiser
    flow = Flow(path=path, prediction=prediction, source=Normal((0.0, -2.0)))
    flow = dataclasses.replace(flow, density=Uniform(0.05, 0.95))
    x1 = exact.sample(20_000, generator=generator())
    wrong = (
        lambda x, t: model(x, t) + 0.1,
        lambda x, t: 1.1 * model(x, t),
        lambda x, t: model(x, t) + 0.1 * x,
        lambda x, t: model(x, t) * torch.where(t < 0.5, 1.1, 0.9)[:, None],
    )
    best, *losses = (flow.loss(m, x1, generator=generator(1)).loss for m in (model, *wrong))
    assert best < min(losses)


@pytest.mark.parametrize("gamma", GAMMAS, ids=repr)
def test_coefficients_of_the_third_term(gamma) -> None:
    t = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    level = gamma(t)
    _, slope = torch.func.jvp(lambda s: gamma(s).g, (t,), (torch.ones_like(t),))
    assert_close(level.dg, slope)
    assert_close(level.g_dg, level.g * slope)
    for s in (0.0, 0.3, 1.0):
        assert all(isinstance(value, float) for value in gamma(s))
        assert gamma(s).g == pytest.approx(
            gamma(torch.tensor(s, dtype=torch.float64)).g.item(), abs=1e-12
        )
    assert gamma(0.0).g == 0.0
    assert math.isfinite(gamma(0.0).g_dg)
    assert eval(repr(gamma)) == gamma


def test_interpolant_points_are_antithetic() -> None:
    path, x0, x1 = Interpolant(), randn(6, 2), randn(6, 2, seed=1)
    t = torch.linspace(0.1, 0.9, 6).double()
    plus, minus = path.points(x0, x1, t, generator())
    straight, v = Linear().interpolate(x0, x1, t)
    assert_close((plus.x + minus.x) / 2, straight)
    assert_close((plus.velocity + minus.velocity) / 2, v)
    assert_close(plus.x - straight, (t * (1 - t)).sqrt()[:, None] * plus.noise)
    assert torch.equal(plus.noise, -minus.noise)
    score = Score().target(plus)
    assert_close(score, path.score(plus.noise, t))


def test_gradient_of_the_velocity_loss_stays_finite_at_the_ends_of_a_brownian_path() -> None:
    """The antithetic pair: gradients vary no more at t = 1e-8 than in the middle."""
    x1 = randn(512, 2)
    spread = []
    for at in (0.5, 1e-8):
        t = torch.full((512,), at, dtype=torch.float64)
        gradients = []
        for seed in range(20):
            w = torch.ones((), dtype=torch.float64, requires_grad=True)
            flow = Flow(path=Interpolant())
            flow.loss(lambda x, t, w=w: w * x, x1, t=t, generator=generator(seed)).loss.backward()
            gradients.append(w.grad)
        spread.append(torch.stack(gradients).std().item())
    assert spread[1] < 3 * spread[0]


# ---------------------------------------------------------------- curved spaces


def test_rotation_target_is_the_body_velocity_of_the_geodesic() -> None:
    space, t = Rotations(), torch.rand(5, generator=generator()).double() * 0.9
    x0, x1 = frames(0)["rot"], frames(1)["rot"]
    out = Flow(path=Geodesic(space)).loss(lambda x, s: x[..., 1:], x1, x0=x0, t=t)
    assert out.prediction.shape == out.target.shape == (5, 4, 3)
    rest = space.log(out.x_t, x1) / (1 - t)[:, None, None]
    assert_close(out.target, rest)
    ahead = space.geodesic(x0, x1, t + 1e-6)
    assert_close(space.log(out.x_t, ahead) / 1e-6, out.target, atol=1e-6, rtol=0)


def test_following_the_target_reaches_the_data_on_a_product() -> None:
    x0, x1, t = frames(0), frames(1), torch.full((5,), 0.3).double()

    def model(x, t):
        return {"trans": x["trans"], "rot": x["trans"]}

    out = Flow(path=Geodesic(SE3)).loss(model, x1, x0=x0, t=t)
    end = SE3.move(out.x_t, out.target, 0.7)
    assert_close(end["trans"], x1["trans"])
    assert_close((end["rot"] * x1["rot"]).sum(-1).abs(), torch.ones(5, 4).double())


def test_loss_is_unchanged_when_the_world_turns() -> None:
    """An equivariant model sees the same body-frame error in a rotated frame."""
    g = Rotations().prior((1, 1), generator=generator(9), dtype=torch.float64)
    x0, x1 = frames(0)["rot"], frames(1)["rot"]
    t = torch.rand(5, generator=generator()).double()

    def model(x, t):  # depends on relative rotations of neighbours only
        return Rotations().log(x, x.roll(1, dims=1))

    flow = Flow(path=Geodesic(Rotations()))
    plain = flow.loss(model, x1, x0=x0, t=t)
    turned = flow.loss(model, quat_multiply(g, x1), x0=quat_multiply(g, x0), t=t)
    assert_close(turned.per_sample, plain.per_sample)
    flipped = flow.loss(model, -x1, x0=x0, t=t)
    assert_close(flipped.per_sample, plain.per_sample)


def test_product_draws_its_own_noise_and_weighs_its_parts() -> None:
    def model(x, t):
        return {"trans": torch.zeros_like(x["trans"]), "rot": torch.zeros_like(x["trans"])}

    x1 = frames(1)
    weights = PartWeights({"trans": (1.0, MeanSquared()), "rot": (0.0, MeanSquared())})
    out = Flow(path=Geodesic(SE3), premetric=weights).loss(model, x1, generator=generator())
    assert_close(out.x_t["rot"].norm(dim=-1), torch.ones(5, 4).double())
    assert_close(out.per_sample, out.target["trans"].square().mean((1, 2)))
    mask = torch.ones(5, 4, dtype=torch.bool)
    masked = Flow(path=Geodesic(SE3), premetric=weights).loss(
        model, x1, mask=mask, generator=generator()
    )
    assert_close(masked.loss, out.loss)


@pytest.mark.parametrize("prediction", [Data(), Noise()])
def test_curved_predictions_give_the_velocity(prediction) -> None:
    flow = Flow(path=Geodesic(SE3), prediction=prediction)
    x0, x1, t = frames(0), frames(1), torch.full((5,), 0.3).double()
    (point,) = flow.points(x1, x0=x0, t=t)
    v = flow.velocity(lambda x, t: prediction.target(point))(point.x, 0.3)
    for part in ("trans", "rot"):
        assert_close(v[part], point.velocity[part], rtol=1e-6, atol=1e-6)
    for back, end in ((flow.path.data, x1), (flow.path.noise, x0)):
        found = back(point.velocity, point.x, 0.3)
        assert_close(found["trans"], end["trans"], rtol=1e-6, atol=1e-6)
        cosine = (found["rot"] * end["rot"]).sum(-1).abs()
        assert_close(cosine, torch.ones(5, 4).double(), rtol=1e-6, atol=1e-6)
    assert flow.space is SE3


def test_flat_parts_need_no_product() -> None:
    x1 = {"image": randn(3, 2, 4), "label": randn(3, 5)}
    out = Flow().loss(lambda x, t: x, x1, generator=generator())
    assert out.target["label"].shape == (3, 5)


def test_default_source_follows_the_space() -> None:
    assert isinstance(Flow().noise, Normal)
    assert isinstance(Flow(path=Geodesic(SE3)).noise, Prior)


# ---------------------------------------------------------------- couplings


def test_optimal_coupling_keeps_conditions_with_their_data() -> None:
    x1 = randn(16, 2, seed=1)
    out = Flow(coupling=MinibatchOT(), density=Uniform(0, 1e-9)).loss(
        lambda x, t, c: x, x1, torch.arange(16), generator=generator()
    )
    assert_close(out.target + out.x_t, x1, atol=1e-6, rtol=0)
    independent = Flow().loss(zero, x1, generator=generator())
    assert out.target.square().sum() < independent.target.square().sum()


def test_paired_flow_refuses_fresh_noise() -> None:
    flow = Flow(coupling=Paired())
    with pytest.raises(ValueError, match="Paired needs the stored noise"):
        flow.loss(zero, torch.zeros(2, 2))
    x0 = randn(2, 2)
    assert_close(flow.loss(zero, torch.zeros(2, 2), x0=x0, generator=generator()).target, -x0)


def test_annealed_flow_is_taken_at_a_step() -> None:
    flow = Flow(coupling=Annealed(LinearAnnealing(10)))
    x1, x0 = torch.zeros(4, 2).double(), randn(4, 2, seed=1)
    end = flow.at(10).loss(zero, x1, x0=x0, generator=generator())
    assert_close(end.target, -x0)
    start = flow.at(0).loss(zero, x1, x0=x0, generator=generator())
    assert not torch.allclose(start.target, -x0)
    assert flow.coupling.step == 0


# ---------------------------------------------------------------- errors


def test_bad_arguments() -> None:
    x1 = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"x0 must have shape \(3, 2\), got \(3, 1\)"):
        Flow().loss(zero, x1, x0=torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"t must have shape \(3,\), got \(3, 1\)"):
        Flow().loss(zero, x1, t=torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"the prediction must have shape \(3, 2\), got \(3, 1\)"):
        Flow().loss(lambda x, t: x[:, :1], x1, generator=generator())
    with pytest.raises(ValueError, match=r"prediction must have shape \{'a': \(3, 2\)\}, got \("):
        Flow().loss(lambda x, t: x["a"], {"a": x1}, generator=generator())
    with pytest.raises(ValueError, match="a score does not determine the velocity on Geodesic"):
        Flow(path=Geodesic(Rotations()), prediction=Score()).velocity(lambda x, t: x)(x1, 0.5)
    with pytest.raises(ValueError, match="no score is known on a curved space"):
        Flow(path=Geodesic(Rotations()), prediction=Score()).loss(zero, frames(0)["rot"])
    with pytest.raises(ValueError, match=r"a noise prediction does not determine .* Interpolant"):
        Flow(path=Interpolant(), prediction=Noise()).velocity(lambda x, t: x)(x1, 0.5)


def test_flow_is_a_value() -> None:
    flow = Flow(path=Interpolant(), prediction=Noise(), source=Normal(1.0))
    assert eval(repr(flow), {**vars(rectiflow), **globals()}) == flow
    assert hash(flow) == hash(dataclasses.replace(flow))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Flow().path = Trigonometric()
