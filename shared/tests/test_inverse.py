"""Operators, measurements and ways to solve inverse problems, against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from rectiflow import GaussianMixtureFlow, KeyedNoise, counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse import (
    METHODS,
    MRS,
    STFT,
    AlongStack,
    AroundEstimate,
    Blur,
    Clipped,
    Clocks,
    Constrained,
    Cyclic,
    DataConsistency,
    Downsample,
    Energy,
    FlowChef,
    Gaussian,
    Laplace,
    Linear,
    Mask,
    Matrix,
    MeanReverting,
    Measurement,
    Poisson,
    Posterior,
    Projected,
    Projection,
    RedDiff,
    Replaced,
    TotalVariation,
    around,
    check_adjoint,
    compare_methods,
    of_velocity,
    projection,
    restore,
    select_start,
    sensors,
    two_clocks,
)
from rectiflow.predictions import Data, Noise
from rectiflow.randomness import counter_generator
from rectiflow.solvers import RK4, Euler
from rectiflow.sources import NORMAL
from rectiflow.steering import Steer

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


SQUARE = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]], dtype=F64)
CELLS = torch.tensor([[0, 1, 2], [1, 3, 2]])
OPERATORS = [
    (Mask(randn(7) > 0), (7,)),
    (Matrix(randn(3, 8), (4, 2)), (5, 4, 2)),
    (Blur(randn(3, 5)), (2, 8, 9)),
    (Blur(randn(3), periodic=False), (8,)),
    (Downsample((2, 3)), (4, 9)),
    (STFT(100, 16, 4), (100,)),
    (Mask(randn(29, 9, 1) > 0) @ STFT(100, 16, 4), (100,)),
    (Matrix(randn(4, 5)) @ Blur(randn(3)), (5,)),
    (sensors(SQUARE, CELLS, torch.tensor([[0.2, 0.3], [0.9, 0.8]])), (3, 4)),
    (projection((5, 6), [0.0, 0.7, 1.9]), (5, 6)),
    (Linear(lambda x: x.cumsum(-1), (6,)), (6,)),
]
IDS = [
    *("mask", "matrix", "blur", "blur in zeros", "downsample", "stft", "stft mask", "composed"),
    *("sensors", "projection", "callable"),
]


@pytest.mark.parametrize(("operator", "shape"), OPERATORS, ids=IDS)
def test_operators(operator, shape):
    """The dot-product test, ``A pinv(y) = y`` on the range, and the regularised solution."""
    check_adjoint(operator, shape)
    x = randn(3, *shape, seed=1)
    y = operator(x)
    torch.testing.assert_close(operator(operator.pinv(y)), y, rtol=1e-6, atol=1e-7)
    z = operator.solve(x, 0.3)
    torch.testing.assert_close(operator.adjoint(operator(z)) + 0.3 * z, x, rtol=1e-8, atol=1e-8)
    alone = operator.solve(x[1:2], 0.3)
    torch.testing.assert_close(alone, z[1:2], rtol=1e-12, atol=1e-12)


def test_stft_is_an_isometry():
    x = randn(2, 333)
    transform = STFT(333, 64, 16)
    assert transform(x).shape == (2, transform.frames, 33, 2)
    torch.testing.assert_close(transform.adjoint(transform(x)), x)
    torch.testing.assert_close(transform(x).norm(), x.norm())


def test_sensors_read_linear_fields_exactly():
    where = torch.tensor([[0.25, 0.5], [1.0, 1.0], [0.6, 0.9]], dtype=F64)
    values = (2 * SQUARE[:, 0] - SQUARE[:, 1] + 3)[None]
    found = sensors(SQUARE, CELLS, where)(values)[0]
    torch.testing.assert_close(found, 2 * where[:, 0] - where[:, 1] + 3)


def test_a_projection_keeps_the_mass():
    image = randn(1, 6, 4).abs()
    rays = projection((6, 4), [0.0, 0.4])(image).reshape(2, -1)
    torch.testing.assert_close(rays.sum(1), image.sum().expand(2))
    torch.testing.assert_close(rays[0][rays[0] != 0].sum(), image.sum())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Linear(lambda x: x + 1, (3,)), "does not belong"),
        (lambda: Linear(lambda x: 2 * x, (3,), lambda y: y), "does not belong"),
        (lambda: Mask(torch.tensor([0.5])), "only 0 and 1"),
        (lambda: Mask(torch.ones(4))(randn(2, 3)), "must fit the event"),
        (lambda: Matrix(randn(3, 8))(randn(2, 7)), "acts on axes"),
        (lambda: Matrix(randn(3, 8)).adjoint(randn(2, 4)), "3 rows"),
        (lambda: Matrix(randn(3, 8), (3, 3)), "cannot act"),
        (lambda: Blur(randn(4)), "odd"),
        (lambda: Blur(randn(9))(randn(1, 5)), "larger than the event"),
        (lambda: Downsample((4,))(randn(1, 6)), "fill the event"),
        (lambda: STFT(100, 16, 5), "divide them"),
        (lambda: STFT(100, 16, 4)(randn(1, 99)), "100 samples"),
        (lambda: sensors(SQUARE, CELLS, torch.tensor([[1.2, 0.5]])), "outside of the mesh"),
        (lambda: sensors(SQUARE, CELLS, torch.tensor([[math.nan, 0.5]])), "outside of the mesh"),
        (lambda: Measurement(Mask(torch.ones(2)), torch.tensor([[math.nan, 1]])), "not finite"),
        (
            lambda: Measurement(Mask(torch.ones(2)), randn(1, 3)).gradient(randn(4, 2)),
            "operator's shape",
        ),
        (
            lambda: Measurement(Mask(torch.ones(2)), randn(3, 2)).gradient(randn(4, 2)),
            "operator's shape",
        ),
        (lambda: Projection(Measurement(lambda x: x**2, randn(1, 3))), "linear operator"),
        (lambda: Gaussian(-1.0), "at least 0"),
        (lambda: Clocks((1.0, 0.5), (0.1, 0.2)), "not grow"),
        (lambda: MRS(4), "lie in 1 to 3"),
        (lambda: MRS(2, predict=Noise(), stochastic=True), "lie in 1 to 1"),
        (lambda: select_start(lambda z: z, randn(0, 2), randn(1, 2)), "must be some"),
    ],
)
def test_bad_inputs(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_noise_models_pull_where_their_likelihood_does():
    clean, y = torch.tensor([0.0, 2.0, 0.4]), torch.tensor([1.0, 1.0, 0.5])
    assert Laplace(0.5).residual(clean, y).tolist() == pytest.approx([-0.5, 0.5, -0.1])
    assert Clipped(1.0).residual(clean, y).tolist() == pytest.approx([-1.0, 0.0, -0.1])
    assert Clipped(1.0).residual(-clean, -y).tolist() == pytest.approx([1.0, 0.0, 0.1])
    many = torch.full((200_000,), 0.7)
    generator = torch.Generator().manual_seed(0)
    for model, spread in (
        (Gaussian(0.3), 0.3),
        (Poisson(50.0), (0.7 / 50) ** 0.5),
        (Laplace(0.2), 0.2 * 2**0.5),
    ):
        drawn = model.sample(many, generator)
        assert drawn.mean() == pytest.approx(0.7, abs=0.005)
        assert drawn.std() == pytest.approx(spread, rel=0.02)
    assert Clipped(0.5).sample(many).unique().tolist() == [0.5]


MEAN = torch.tensor([0.2, -0.4, 0.1, 0.3], dtype=F64)
ROOT = randn(4, 4, seed=3) * 0.5
PRIOR = GaussianMixtureFlow(torch.ones(1), MEAN[None], (ROOT @ ROOT.T)[None])


def test_flowchef_by_its_recursion():
    """Scalar case of the specification: m = .2, c = .5, y = 1.1, x0 = .3, all steps corrected."""
    flow = GaussianMixtureFlow(torch.ones(1), torch.full((1, 1), 0.2), torch.full((1, 1, 1), 0.5))
    y = Measurement(Mask(torch.ones(1)), torch.tensor([[1.1]], dtype=F64))
    start = torch.tensor([[0.3]], dtype=F64)
    for steps, eta, left in (
        (10, 0.1, -0.1724166252),
        (10, 0.5, 0.0690201719),
        (50, 0.1, 0.1001933339),
        (50, 0.5, 1.620461e-3),
        (200, 0.1, 4.920292e-3),
        (200, 0.5, 9.236e-5),
        (10, 1.0, 0.0),
    ):
        moves = plan(uniform(steps), Steer(Euler(), DataConsistency(y, eta)))
        assert integrate(flow, start, moves).item() - 1.1 == pytest.approx(left, abs=1e-8)


def test_flowchef_leaves_what_is_not_seen_bit_for_bit():
    keep = torch.tensor([True, False, True, False])
    y = Measurement(Mask(keep), torch.where(keep, randn(1, 4), 0))

    def field(x, t):
        return torch.tanh(x) - t

    x0, grid = randn(5, 4), uniform(12)
    free = integrate(field, x0, plan(grid, Euler()))
    moves = plan(grid, Steer(Euler(), DataConsistency(y)))
    steered = integrate(field, x0, moves)
    assert torch.equal(steered[:, ~keep], free[:, ~keep])
    torch.testing.assert_close(steered[:, keep], y.y[:, keep].expand(5, 2))


def test_no_gradient_goes_through_the_network():
    """Memory is that of plain sampling: the network is never called with gradients on."""
    network = torch.nn.Linear(4, 4, dtype=F64)
    seen = []

    def field(x, t):
        seen.append(torch.is_grad_enabled() or x.requires_grad)
        return network(x)

    wish = Energy(lambda x: (x.sin() - 0.3).square().sum(1))
    readings = Measurement(lambda x: x.square(), torch.ones(1, 4, dtype=F64))
    for towards in (wish, readings):
        moves = plan(uniform(6), Steer(Euler(), DataConsistency(towards, 0.2, 3)))
        assert not integrate(field, randn(2, 4), moves).requires_grad
    assert len(seen) == 12
    assert not any(seen)


def test_energy_of_a_state_of_parts():
    wish = Energy(lambda x: x["a"].square().sum(1))
    slope = wish.gradient({"a": torch.ones(2, 3), "b": torch.ones(2, 1)})
    assert torch.equal(slope["a"], 2 * torch.ones(2, 3))
    assert torch.equal(slope["b"], torch.zeros(2, 1))


def test_a_constraint_keeps_the_noise():
    """Under Euler the next state is ``t D' + (1 - t) E`` to rounding."""
    x, s, t = randn(3, 4), 0.3, 0.7
    v = PRIOR(x, s)
    data, noise = x + (1 - s) * v, x - s * v
    moves = plan([s, t], Steer(Euler(), Constrained(lambda d: 2 * d)))
    found = integrate(PRIOR, x, moves)
    torch.testing.assert_close(found, t * 2 * data + (1 - t) * noise, rtol=1e-13, atol=1e-14)


def test_posterior_guidance_is_exact_for_unit_data():
    """The ODE's map is that of the posterior N(m + K (y - m), 1 - K)."""
    flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    keep, sigma = torch.tensor([True, False]), 0.5
    y = torch.tensor([[0.8, 0.0]], dtype=F64)
    readings = Measurement(Mask(keep), y, Gaussian(sigma))
    gain = 1 / (1 + sigma**2)
    x0 = randn(64, 2)
    found = Posterior()(flow, readings, x0, 800, KeyedNoise(0, range(64)))
    expected = torch.stack([gain * 0.8 + (1 - gain) ** 0.5 * x0[:, 0], x0[:, 1]], 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)


def test_a_projection_does_not_fit_noise():
    readings = Measurement(Mask(torch.ones(4)), randn(1, 4), Gaussian(0.5))
    exact = Measurement(readings.operator, readings.y)
    x, v, t = randn(3, 4), torch.zeros(3, 4, dtype=F64), 0.5
    moved, _ = Projection(readings)(x, t, v)
    r2 = 0.5**2 / (0.5**2 + 0.5**2)
    torch.testing.assert_close(moved, x + r2 / (r2 + 0.25) * (readings.y - x))
    torch.testing.assert_close(Projection(exact)(x, t, v)[0], readings.y.expand(3, 4))
    assert Projection(readings)(x, 1.0, v)[0] is x


def test_comparison_at_equal_cost():
    keep = torch.tensor([1.0, 0, 1, 0])
    truth = MEAN + randn(1, 4, seed=9) @ ROOT.T
    readings = Measurement(Mask(keep), keep * truth)
    rows = compare_methods(PRIOR, readings, randn(8, 4), 24, truth=truth)
    assert {type(row.method) for row in rows} == {
        *(FlowChef, Projected, Posterior, RedDiff, Replaced, Cyclic)
    }
    assert [row.error for row in rows] == sorted(row.error for row in rows)
    for row in rows:
        assert row.evaluations <= 24
        assert set(row.row()) == {"method", "evaluations", "misfit", "error", "seconds"}
    best = {type(row.method): row for row in rows}
    for kind in (FlowChef, Projected, Replaced, Cyclic):
        assert best[kind].misfit < 1e-6
        assert best[kind].evaluations == 24
    noisy = Measurement(Mask(keep), keep * truth, Gaussian(0.1))
    assert not any(isinstance(row.method, Replaced) for row in _all(noisy))
    bent = Measurement(lambda x: x.tanh(), truth.tanh())
    assert [type(row.method) for row in _all(bent)] == [FlowChef]


def _all(readings):
    return compare_methods(PRIOR, readings, randn(2, 4), 6, methods=METHODS)


def test_along_a_stack():
    """An identity denoiser and exact data give A x = y; without variation, least squares."""
    readings = Measurement(Matrix(randn(3, 4, seed=5)), randn(5, 3, seed=6))
    between = TotalVariation(readings, lam=0.0, rho=0.1, inner=200)
    least = between.solve(torch.zeros(5, 4, dtype=F64), 400).x
    torch.testing.assert_close(readings.operator(least), readings.y, rtol=1e-6, atol=1e-6)

    def identity(x, t):
        return torch.zeros_like(x)

    found = AlongStack(lam=0.0, rho=0.1, inner=50)(
        identity, readings, randn(5, 4), 60, KeyedNoise(0, range(5))
    )
    assert readings.misfit(found).max() < 1e-6
    rough = TotalVariation(readings, lam=10.0, inner=200).solve(least, 300).x
    assert (rough.roll(-1, 0) - rough).abs().sum() < 0.05 * (least.roll(-1, 0) - least).abs().sum()


def test_pmrf_map_and_errors():
    """Slope sqrt(c / (c* + s²)) and the error that the specification computes."""
    c, noise = 1.0, 0.49
    best = c * c / (c + noise)
    x = randn(40_000, 1, seed=1)
    y = x + noise**0.5 * randn(40_000, 1, seed=2)
    estimate = c / (c + noise) * y
    for square, mse in ((0.0, 0.361536), (0.01, 0.373608), (0.1, 0.471460)):

        def field(z, t, square=square):
            top = t * (c - best) - (1 - t) * square
            return z * top / ((1 - t) ** 2 * (best + square) + t**2 * c + 2 * t * (1 - t) * best)

        moves = plan(uniform(40), RK4())
        generator = torch.Generator().manual_seed(4)
        found = restore(field, estimate, moves, sigma=square**0.5, generator=generator)
        assert (found - x).square().mean().item() == pytest.approx(mse, rel=0.03)
        one = restore(field, torch.ones(1, 1, dtype=F64), moves, sigma=0.0)
        assert one.item() == pytest.approx((c / (best + square)) ** 0.5, rel=1e-6)


def test_noise_around_an_estimate():
    estimate = torch.full((50_000, 1), 2.0)
    drawn = AroundEstimate(0.1).draw(
        estimate, NORMAL, x0=estimate, generator=torch.Generator().manual_seed(0)
    )
    assert drawn.std() == pytest.approx(0.1, rel=0.02)
    assert drawn.mean() == pytest.approx(2.0, abs=0.002)
    with pytest.raises(ValueError, match="stored noise"):
        AroundEstimate().draw(estimate, NORMAL)


@pytest.mark.parametrize("order", ["interleaved", "residual first"])
def test_rddm_with_an_oracle(order):
    x1, residual, eps = randn(3, 4), randn(3, 4, seed=1), randn(3, 4, seed=2)
    steps = torch.rand(2, 11, generator=torch.Generator().manual_seed(3), dtype=F64)
    falls = (steps.cumsum(1).flip(1) / steps.sum(1, keepdim=True)).tolist()
    shares, levels = (*falls[0], 0.0), tuple(0.3 * b for b in (*falls[1], 0.0))
    if order == "residual first":
        shares, levels = (*falls[0], *[0.0] * 12), (*[levels[0]] * 11, *levels)
    clocks = Clocks(shares, levels)
    start = x1 + clocks.shares[0] * residual + clocks.levels[0] * eps
    found = two_clocks(lambda x, a, b: (residual, eps), start, clocks)
    torch.testing.assert_close(found, x1, rtol=1e-14, atol=1e-14)


def test_rectified_flow_and_ddim_are_special_cases_of_rddm():
    x0, grid = randn(6, 4), uniform(9)
    found = two_clocks(of_velocity(PRIOR), x0, Clocks.of_flow(grid))
    expected = integrate(PRIOR, x0, plan(grid, Euler()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    bars = [0.02, 0.3, 0.7, 0.99]

    def noise(x, bar):
        return (x - bar**0.5 * 0.4) / (1 - bar) ** 0.5 * 0.9

    def predict(x, a, b):
        bar = 1 - b * b
        eps = noise(x, bar)
        return -(x - b * eps) / bar**0.5, eps

    clocks, x = Clocks.of_diffusion(bars), x0
    for bar, later in itertools.pairwise(bars):
        eps = noise(x, bar)
        x = later**0.5 * (x - (1 - bar) ** 0.5 * eps) / bar**0.5 + (1 - later) ** 0.5 * eps
    found = two_clocks(predict, x0, clocks)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)
    drawn = [
        two_clocks(predict, x0, clocks, eta=1.0, noise=KeyedNoise(s, range(6))) for s in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len(Clocks.of_training().some(5).shares) == 6


@pytest.mark.parametrize("predict", [Data(), Noise()])
def test_mrs_orders(predict):
    """Of noise predictions the first step, of order 1, stays in the error at order 2."""
    path = MeanReverting(0.5)
    flow = GaussianMixtureFlow(torch.ones(1), torch.full((1, 1), 0.7), torch.full((1, 1, 1), 0.2))

    def field(y, t):
        a, b, da, db = path.coeffs(t)
        return da * 0.7 + (a * da * 0.2 + b * db) / (a * a * 0.2 + b * b) * (y - a * 0.7)

    stop = path.t_of_lam(2.0)
    y = torch.tensor([[-0.3], [0.6]], dtype=F64)

    def end(order, steps):
        low = path.lam(0.0)
        inner = [path.t_of_lam(low + i * (2.0 - low) / steps) for i in range(1, steps)]
        return integrate(field, y, plan([0.0, *inner, stop], MRS(order, path, predict)))

    a, b, *_ = path.coeffs(stop)
    a0, b0, *_ = path.coeffs(0.0)
    exact = 0.7 * a + ((a * a * 0.2 + b * b) / (a0 * a0 * 0.2 + b0 * b0)) ** 0.5 * (y - 0.7 * a0)
    assert flow.means.shape == (1, 1)
    for order in (1, 2, 3) if isinstance(predict, Data) else (1, 2):
        errors = [(end(order, n) - exact).abs().max().item() for n in (64, 128)]
        assert math.log2(errors[0] / errors[1]) > order - 0.25


def test_mrs_is_exact_on_a_point_in_one_step():
    """With data predictions, from T to any time; the SDE has the right law."""
    path, point = MeanReverting(0.5), torch.tensor([0.4, -0.2], dtype=F64)

    def field(y, t):
        a, b, da, db = path.coeffs(t)
        return da * point + db / b * (y - a * point)

    y = randn(20_000, 2)
    for order in (1, 2, 3):
        for stop in (0.4, 0.9):
            a, b, *_ = path.coeffs(stop)
            a0, b0, *_ = path.coeffs(0.0)
            found = integrate(field, y[:5], plan([0.0, stop], MRS(order, path)))
            expected = a * point + b / b0 * (y[:5] - a0 * point)
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    at_rest = path.coeffs(0.0)
    start = at_rest.a * point + at_rest.b * y
    noise = KeyedNoise(0, range(len(y)))
    for predict, order in ((Data(), 1), (Data(), 2)):
        solver = MRS(order, path, predict, stochastic=True)
        found = integrate(field, start, plan([0.0, 0.6, 0.9], solver), noise=noise)
        a, b, *_ = path.coeffs(0.9)
        assert (found.mean(0) - a * point).abs().max() < 4 * b / len(y) ** 0.5
        assert (found.std(0) / b - 1).abs().max() < 0.03
    many = plan([*(0.9 * i / 60 for i in range(61))], MRS(1, path, Noise(), stochastic=True))
    found = integrate(field, start, many, noise=noise)
    assert (found.std(0) / path.coeffs(0.9).b - 1).abs().max() < 0.1
    degraded = randn(3, 2, seed=8)
    restored = around(
        field, degraded, plan([0.0, 1.0], MRS(1, path)), sigma=0.5, generator=counter_generator(1)
    )
    torch.testing.assert_close(restored, degraded + point)


def test_a_start_is_chosen_and_transfers():
    """A linear sampler: the index of the direct minimum, and below the median on new pairs."""
    weight, root = randn(3, 2, seed=1), 0.4 * torch.eye(3, dtype=F64)
    y, new = randn(16, 2, seed=2), randn(1000, 2, seed=3)
    truth = y @ weight.T + randn(16, 3, seed=4) @ root
    fresh = new @ weight.T + randn(1000, 3, seed=5) @ root
    candidates = randn(200, 3, seed=6)
    chosen = select_start(lambda z: y @ weight.T + z @ root, candidates, truth)
    direct = torch.stack([(y @ weight.T + z @ root - truth).square().mean() for z in candidates])
    assert chosen.index == int(direct.argmin())
    torch.testing.assert_close(chosen.scores, direct)
    errors = torch.stack([(new @ weight.T + z @ root - fresh).square().mean() for z in candidates])
    assert errors[chosen.index] < errors.median()
    assert errors[chosen.index] < 1.3 * 0.4**2


def test_cyclic_costs_what_it_may():
    keep = torch.tensor([1.0, 0, 0, 1])
    readings = Measurement(Mask(keep), keep * randn(1, 4))
    for budget in (4, 10, 37):
        field = counted(PRIOR)
        found = Cyclic()(field, readings, randn(3, 4), budget, KeyedNoise(0, range(3)))
        assert field.calls <= budget
        assert torch.equal(found[:, keep.bool()], readings.y[:, keep.bool()].expand(3, 2))
