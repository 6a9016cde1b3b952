"""Paths: coefficients, conversions, and change of path."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.conversions import reparametrise
from rectiflow.fields import bind, counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.paths import (
    Affine,
    Linear,
    LinearVP,
    Path,
    Polynomial,
    TargetCFM,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.predictions import Data, Noise, Prediction, Score, Velocity
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.sources import Normal
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

PATHS = [
    Linear(),
    Trigonometric(),
    VariancePreserving(),
    Polynomial(1),
    Polynomial(2),
    Polynomial(3.5),
    LinearVP(),
    TargetCFM(0.01),
    Affine(lambda t: torch.sin(math.pi / 2 * t), lambda t: torch.cos(math.pi / 2 * t)),
]
each_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
SOURCE = Normal(mean=0.3, scale=2.0)
KINDS = [Velocity(), Data(), Noise(), Score(SOURCE)]


def times(n: int = 17) -> torch.Tensor:
    return torch.linspace(0.03, 0.97, n, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_path
def test_derivatives_are_the_derivatives(path: Path) -> None:
    t = times()
    for value, rate in ((0, 2), (1, 3)):
        _, slope = torch.func.jvp(lambda s, i=value: path.coeffs(s)[i], (t,), (torch.ones_like(t),))
        assert_close(path.coeffs(t)[rate], slope)


@each_path
def test_numbers_and_tensors_agree(path: Path) -> None:
    for s in (0.0, 0.1, 0.5, 0.9, 1.0):
        numbers = path.coeffs(s)
        assert all(type(value) is float for value in numbers)
        tensors = path.coeffs(torch.tensor(s, dtype=torch.float64))
        for a, b in zip(numbers, tensors, strict=True):
            assert_close(torch.tensor(a, dtype=torch.float64), b, rtol=1e-14, atol=1e-15)
    assert path.coeffs(times()).da.shape == (17,)


@each_path
def test_ends_are_exact(path: Path) -> None:
    start, end = path.coeffs(0.0), path.coeffs(1.0)
    if not isinstance(path, VariancePreserving):
        assert (start.a, start.b) == (0.0, 1.0)
    assert end.a == 1.0
    if not isinstance(path, TargetCFM | Affine):
        assert end.b == 0.0


def test_variance_preserving_path_keeps_its_digits_near_the_data() -> None:
    path, s = VariancePreserving(), 1e-7
    t = torch.tensor(1 - s, dtype=torch.float64)
    total = s * 0.1 + s * s * 19.9 / 2
    assert_close(path.coeffs(t).b.item(), math.sqrt(total * (1 - total / 2)), rtol=1e-8, atol=0)
    assert path.coeffs(1.0).db == -math.inf
    assert path.b_db(1.0) == pytest.approx(-0.05)
    assert LinearVP().b_db(1.0) == -1.0


@each_path
def test_half_log_snr_is_inverted(path: Path) -> None:
    t = times()
    assert_close(path.t_of_lam(path.lam(t)), t, rtol=1e-12, atol=1e-13)
    for s in (1e-6, 0.3, 1 - 1e-6):
        if not (isinstance(path, VariancePreserving) and s < 1e-3):
            assert path.t_of_lam(path.lam(s)) == pytest.approx(s, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("path", [p for p in PATHS if not isinstance(p, TargetCFM | Affine)])
def test_half_log_snr_at_and_far_beyond_the_ends(path: Path) -> None:
    assert path.lam(1.0) == math.inf
    assert path.t_of_lam(math.inf) == 1.0
    assert path.t_of_lam(800.0) == pytest.approx(1.0, abs=1e-15)
    assert path.t_of_lam(path.lam(0.0)) == pytest.approx(0.0, abs=1e-12)
    if not isinstance(path, VariancePreserving):
        assert path.lam(0.0) == -math.inf
        assert path.t_of_lam(-800.0) == pytest.approx(0.0, abs=1e-15)


def test_small_noise_levels_keep_relative_accuracy() -> None:
    for path in (Linear(), Trigonometric(), LinearVP(), Polynomial(1)):
        assert path.lam(path.t_of_lam(-40.0)) == pytest.approx(-40.0, rel=1e-13)


@each_path
def test_interpolation_and_its_velocity(path: Path) -> None:
    x0, x1, t = randn(17, 3, 2), randn(17, 3, 2, seed=1), times()
    x_t, dx_t = path.interpolate(x0, x1, t)
    c = path.coeffs(t)
    assert_close(x_t, c.a[:, None, None] * x1 + c.b[:, None, None] * x0)
    _, slope = torch.func.jvp(lambda s: path.interpolate(x0, x1, s)[0], (t,), (torch.ones_like(t),))
    assert_close(dx_t, slope)
    parts = path.interpolate({"a": x0}, {"a": x1}, t)
    assert torch.equal(parts[0]["a"], x_t)
    assert torch.equal(parts[1]["a"], dx_t)


@each_path
@pytest.mark.parametrize("said", KINDS, ids=lambda p: type(p).__name__)
def test_every_prediction_gives_the_velocity_and_follows_from_it(
    path: Path, said: Prediction
) -> None:
    """One sample: x1 and x0 are known, so all four predictions are."""
    x0, x1, t = randn(17, 4), randn(17, 4, seed=1), times()
    (point,) = path.points(x0, x1, t, None)
    value = said.target(point)
    out = said.velocity(value, point.x, t, path)
    assert_close(out, point.velocity, rtol=1e-9, atol=1e-9)
    one = said.velocity(value[3], point.x[3], float(t[3]), path)
    assert_close(one, out[3])
    score = -(x0 - 0.3) / (4 * path.coeffs(t).b[:, None])
    assert_close(path.data(out, point.x, t), x1, rtol=1e-9, atol=1e-9)
    assert_close(path.noise(out, point.x, t), x0, rtol=1e-9, atol=1e-9)
    assert_close(path.score(out, point.x, t, SOURCE), score, rtol=1e-9, atol=1e-9)


def test_named_conversions_are_the_table() -> None:
    path, x, v = Linear(), randn(5, 2), randn(5, 2, seed=1)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    s = t[:, None]
    assert_close(path.data(v, x, t), x + (1 - s) * v)
    assert_close(path.noise(v, x, t), x - s * v)
    assert_close(path.score(v, x, t), -(x - s * v) / (1 - s))
    assert_close(path.data(v, x, 0.3), x + 0.7 * v)
    assert_close(path.noise(v, x, 0.3), x - 0.3 * v)
    assert_close(path.score(v, x, 0.3), -(x - 0.3 * v) / 0.7)


@pytest.mark.parametrize("path", [p for p in PATHS if not isinstance(p, Polynomial)])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_data_and_noise_follow_from_the_velocity_at_both_ends(path: Path, t: float) -> None:
    """Exact conditional expectations of a Gaussian, also where b' is infinite."""
    one = torch.ones(1, dtype=torch.float64)
    flow = GaussianMixtureFlow(one, randn(1, 2), 0.5 * torch.eye(2)[None], path=path)
    x = randn(6, 2, seed=1)
    v = flow.velocity(x, t)
    assert v.isfinite().all()
    assert_close(path.data(v, x, t), flow.data(x, t))
    assert_close(path.noise(v, x, t), flow.noise(x, t))


UNDETERMINED = [
    ("finite score", 1.0, lambda path, x, t: path.score(x, x, t)),
    ("data does not determine a finite velocity", 1.0, lambda path, x, t: path.from_data(x, x, t)),
    ("noise does not determine", 0.0, lambda path, x, t: path.from_noise(x, x, t)),
    ("noise does not determine", 0.0, lambda path, x, t: path.from_score(x, x, t)),
]


@pytest.mark.parametrize(("said", "t", "convert"), UNDETERMINED)
def test_undetermined_conversions_are_errors(said, t, convert) -> None:
    x = randn(3, 2)
    for path in (Linear(), Trigonometric(), LinearVP(), Polynomial(2)):
        with pytest.raises(ValueError, match=rf"{said} .*got t=.*Keep the vel"):
            convert(path, x, t)


@pytest.mark.parametrize(("said", "t", "convert"), UNDETERMINED)
def test_rows_of_a_tensor_of_times_stand_alone(said, t, convert) -> None:
    """Times on a device are not read: the row without an answer is not finite, others are."""
    x, when = randn(3, 2), torch.tensor([0.5, t, 0.5], dtype=torch.float64)
    for path in (Linear(), Trigonometric(), LinearVP(), Polynomial(2)):
        out = convert(path, x, when)
        assert not out[1].isfinite().any()
        assert_close(out[::2], convert(path, x[::2], 0.5))


def test_regular_conversions_at_the_ends_are_not_errors() -> None:
    x = randn(3, 2)
    for path in (Linear(), Trigonometric(), LinearVP(), Polynomial(2)):
        assert_close(path.noise(x, x, 0.0), x)
    with pytest.raises(ValueError, match="velocity does not determine a finite data"):
        Polynomial(2).data(x, x, 0.0)


class Operations(TorchDispatchMode):
    """Lists the tensor operations that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@each_path
def test_conversions_read_nothing_and_cost_few_operations(path: Path) -> None:
    x, t = randn(5, 2), torch.linspace(0.1, 0.9, 5)
    with Operations() as seen:
        for convert in (path.data, path.noise, path.score, path.from_data, path.from_noise):
            convert(x, x, t)
        path.interpolate(x, x, t)
        path.t_of_lam(path.lam(t))
    assert not [name for name in seen.names if "local_scalar" in name or "item" in name]
    path.data(x, x, 0.5), path.score(x, x, 0.5)  # coefficients are remembered from here on
    for convert, most in ((path.data, 2), (path.noise, 2), (path.score, 5)):
        with Operations() as seen:
            convert(x, x, 0.5)
        assert len(seen.names) <= most
    with Operations() as seen:
        Linear().data(x, x, 0.5), Linear().noise(x, x, 0.5)
    assert len(seen.names) == 2


@each_path
def test_paths_are_values(path: Path) -> None:
    assert hash(path) == hash(dataclasses.replace(path))
    assert path == dataclasses.replace(path)
    if not isinstance(path, Affine):
        assert eval(repr(path)) == path


def test_bad_arguments() -> None:
    x = randn(3, 2)
    with pytest.raises(ValueError, match=r"outside the path, got t=1\.5"):
        Linear().coeffs(1.5)
    with pytest.raises(ValueError, match="outside the path, got t=nan"):
        Linear().coeffs(math.nan)
    with pytest.raises(ValueError, match=r"VariancePreserving never has .*\[-5.02498, inf\]"):
        VariancePreserving().t_of_lam(-6.0)
    assert VariancePreserving().t_of_lam(torch.tensor([0.0, -6.0])).isnan().tolist() == [
        False,
        True,
    ]
    with pytest.raises(ValueError, match="TargetCFM never has half log-SNR 5"):
        TargetCFM(0.01).t_of_lam(5.0)
    with pytest.raises(ValueError, match="Affine never has"):
        Affine(lambda t: 0.5 + 0.4 * t, lambda t: 1 - t / 2).t_of_lam(10.0)
    with pytest.raises(ValueError, match=r"at least 1, got n=0\.5"):
        Polynomial(0.5)
    with pytest.raises(ValueError, match="sigma_min must be"):
        TargetCFM(1.0)
    with pytest.raises(ValueError, match="noise rates must grow"):
        VariancePreserving(2.0, 1.0)
    for path in (VariancePreserving(), LinearVP()):
        with pytest.raises(ValueError, match=r"velocity of .* is infinite at this time, got t=1"):
            path.interpolate(x, x, 1.0)
        _, v = path.interpolate(x, x, torch.tensor([0.5, 1.0, 0.5]))
        assert v.isfinite().all(1).tolist() == [True, False, True]


def test_given_derivatives_are_used() -> None:
    path = Affine(lambda t: t, lambda t: 1 - t, da=lambda t: 7 + 0 * t)
    assert path.coeffs(0.5) == (0.5, 0.5, 7.0, -1.0)


@pytest.mark.parametrize("trained", PATHS[:8], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("wanted", [Linear(), Trigonometric(), VariancePreserving()])
def test_changed_field_is_the_exact_field_of_the_other_path(trained: Path, wanted: Path) -> None:
    mixture = torch.tensor([0.3, 0.7]), randn(2, 3), torch.eye(3).expand(2, 3, 3) * 0.2
    on_trained, on_wanted = (GaussianMixtureFlow(*mixture, path=p) for p in (trained, wanted))
    field = reparametrise(on_trained.velocity, trained, wanted)
    x = randn(4, 3, seed=2)
    for t in (0.2, 0.5, 0.9):
        assert_close(field(x, t), on_wanted.velocity(x, t), rtol=1e-9, atol=1e-9)
        tensor_time = torch.tensor(t, dtype=torch.float64)
        assert_close(field(x, tensor_time), on_wanted.velocity(x, t), rtol=1e-9, atol=1e-9)


def test_changed_field_has_the_same_end_points() -> None:
    """Acceptance 14: integrate on both paths from the same noise."""
    trained, wanted = VariancePreserving(), Linear()
    mixture = torch.tensor([0.4, 0.6]), randn(2, 2), torch.eye(2).expand(2, 2, 2) * 0.3
    flow = GaussianMixtureFlow(*mixture, path=trained)
    x0 = randn(32, 2, seed=3)
    direct = integrate(flow.velocity, x0, plan(uniform(400), RK4()))
    first = trained.coeffs(0.0)
    start = wanted.t_of_lam(trained.lam(0.0))
    field = reparametrise(flow.velocity, trained, wanted)
    moved = integrate(field, x0 / (first.a + first.b), plan(uniform(400, start, 1.0), RK4()))
    assert_close(moved, direct, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="never has half log-SNR -inf"):
        field(x0, 0.0)
    to_vp = reparametrise(flow.velocity, trained, trained)
    with pytest.raises(ValueError, match=r"VariancePreserving.* has no finite velocity at this"):
        to_vp(x0, 1.0)


def test_single_precision_states_stay_so() -> None:
    x, t = torch.randn(4, 2), torch.rand(4, dtype=torch.float64) * 0.8 + 0.1
    for path in PATHS:
        assert path.interpolate(x, x, t)[0].dtype == torch.float32
        assert path.noise(x, x, t).dtype == torch.float32
        assert path.data(x, x, 0.5).dtype == torch.float32


def test_bind_broadcasts_time_and_passes_the_condition() -> None:
    seen = {}

    def model(x, t, *cond):
        seen.update(t=t, cond=cond)
        return x

    x = {"a": torch.zeros(3, 2, dtype=torch.float64), "b": torch.zeros(3)}
    bind(model)(x, 0.1)
    assert seen["cond"] == ()
    assert torch.equal(seen["t"], torch.full((3,), 0.1, dtype=torch.float64))
    bind(model, "query")(torch.zeros(5, 1), torch.tensor(0.1, dtype=torch.float64))
    assert seen["cond"] == ("query",)
    assert torch.equal(seen["t"], torch.full((5,), 0.1))


def test_counted_counts() -> None:
    field = counted(lambda x, t: x * t)
    assert torch.equal(field(torch.ones(2), 0.5), torch.full((2,), 0.5))
    integrate(field, torch.ones(2), plan(uniform(3), RK4()))
    assert field.calls == 13
