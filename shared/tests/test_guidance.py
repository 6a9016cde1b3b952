from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.fields import bind, counted
from rectiflow.grids import uniform
from rectiflow.guidance import batched_cfg, cfg, cfg_to_endpoint, compose, guided
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import RK4, Adams, Euler, FireFlow, Heun, Midpoint
from rectiflow.spaces import Rotations

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz"
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
V_NULL = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)


def conditional(x, t):
    return torch.sin(x + t)


def unconditional(x, t):
    return torch.cos(2 * x) - t


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(GOLDEN) as arrays:
        return {k: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("cfg/")}


@pytest.mark.parametrize(
    ("key", "w", "rescale"),
    [
        ("cfg/w0", 0.0, 0.0),
        ("cfg/w1", 1.0, 0.0),
        ("cfg/w1.5", 1.5, 0.0),
        ("cfg/rescale_w4_phi0.7", 4.0, 0.7),
    ],
)
def test_golden(golden, key, w, rescale):
    field = guided(
        lambda x, t: golden["cfg/v_cond"],
        cfg(lambda x, t: golden["cfg/v_uncond"], w, rescale=rescale),
    )
    torch.testing.assert_close(field(X, 0.5), golden[key], rtol=1e-12, atol=1e-12)


def test_weight_one_makes_no_unconditional_call_and_is_bitwise_conditional():
    null = counted(unconditional)
    field = guided(conditional, cfg(null, 1.0))
    assert torch.equal(field(X, 0.3), conditional(X, 0.3))
    assert null.calls == 0


@pytest.mark.parametrize(("solver", "per_step"), [(Euler(), 1), (Heun(), 2), (RK4(), 4)], ids=str)
def test_guidance_doubles_the_calls_of_every_stage(solver, per_step):
    own, null = counted(conditional), counted(unconditional)
    integrate(guided(own, cfg(null, 3.0)), X, plan(uniform(5), solver))
    assert (own.calls, null.calls) == (5 * per_step, 5 * per_step)


def test_interval_saves_the_calls_outside():
    null = counted(unconditional)
    field = guided(conditional, cfg(null, 3.0, interval=(0.25, 0.5)))
    integrate(field, X, plan(uniform(8), Euler()))  # times 0, 1/8, ..., 7/8
    assert null.calls == 3
    assert torch.equal(field(X, 0.2), conditional(X, 0.2))
    expected = unconditional(X, 0.5) + 3.0 * (conditional(X, 0.5) - unconditional(X, 0.5))
    torch.testing.assert_close(field(X, 0.5), expected)


@pytest.mark.parametrize("t", [0.2, 0.25, 0.4, 0.5, 0.6])
def test_interval_with_tensor_times(t):
    """As in a compiled region, where a time cannot steer the program."""
    field = guided(conditional, cfg(unconditional, 3.0, interval=(0.25, 0.5), rescale=0.5))
    torch.testing.assert_close(field(X, torch.tensor(t, dtype=torch.float64)), field(X, t))


@pytest.mark.parametrize("shape", [(6, 4), (6, 6), (6, 2, 3)], ids=str)
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_interval_with_a_time_per_row(shape, rescale):
    """Square states too, where a mask over the rows would broadcast along the other axis."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.tensor([0.1, 0.25, 0.3, 0.5, 0.6, 0.9], dtype=torch.float64)

    def own(x, t):
        return torch.sin(x + (t if isinstance(t, float) else t.reshape(-1, *(1,) * (x.ndim - 1))))

    field = guided(own, cfg(lambda x, t: 2 * x, 3.0, interval=(0.25, 0.5), rescale=rescale))
    alone = [field(x[i : i + 1], t[i].item()) for i in range(6)]
    torch.testing.assert_close(field(x, t), torch.cat(alone), rtol=0, atol=1e-14)


def test_interval_that_no_row_is_in_costs_no_call():
    null = counted(unconditional)
    field = guided(lambda x, t: x, cfg(null, 3.0, interval=(0.25, 0.5)))
    field(X, torch.full((6,), 0.7, dtype=torch.float64))
    assert null.calls == 0


def test_weight_per_sample():
    w = torch.tensor([0.0, 1.0, 1.5, 2.0, 3.0, 7.5])
    together = guided(conditional, cfg(unconditional, w))(X, 0.4)
    for i in range(6):
        alone = guided(conditional, cfg(unconditional, w[i].item()))(X[i : i + 1], 0.4)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_rescaling_restores_the_spread():
    full = guided(conditional, cfg(unconditional, 6.0, rescale=1.0))(X, 0.4)
    torch.testing.assert_close(full.std(1), conditional(X, 0.4).std(1))
    none = guided(conditional, cfg(unconditional, 6.0))(X, 0.4)
    half = guided(conditional, cfg(unconditional, 6.0, rescale=0.5))(X, 0.4)
    torch.testing.assert_close(half, (full + none) / 2)


def test_guides_apply_in_order():
    field = guided(conditional, lambda x, t, v: v + 1, lambda x, t, v: v * x)
    torch.testing.assert_close(field(X, 0.1), (conditional(X, 0.1) + 1) * X)
    assert torch.equal(guided(conditional)(X, 0.1), conditional(X, 0.1))


def model(x, t, cond):
    mixed = cond["text"].mean(1) + cond["tags"][0]
    return torch.sin(x * mixed[:, None] + t[:, None])


COND = {
    "text": torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64),
    "tags": [torch.randn(6, generator=GENERATOR, dtype=torch.float64)],
}
NULL = {"text": torch.zeros(1, 3, dtype=torch.float64), "tags": [torch.zeros(1)]}
NULL_REPEATED = {"text": torch.zeros(6, 3, dtype=torch.float64), "tags": [torch.zeros(6)]}


@pytest.mark.parametrize("null", [NULL, NULL_REPEATED], ids=["one", "each"])
@pytest.mark.parametrize("w", [4.0, torch.linspace(0, 5, 6)], ids=["number", "tensor"])
def test_batched_cfg_is_cfg_in_one_call(null, w):
    one = counted(bind(model, COND))
    separate = guided(one, cfg(bind(model, NULL_REPEATED), w, interval=(0.2, 0.8), rescale=0.3))
    sizes = []

    def recording(x, t, cond):
        sizes.append(len(x))
        return model(x, t, cond)

    batched = batched_cfg(recording, COND, null, w, interval=(0.2, 0.8), rescale=0.3)
    for t in (0.1, 0.5, 0.9):
        torch.testing.assert_close(batched(X, t), separate(X, t))
    assert sizes == [6, 12, 6]


def test_batched_cfg_at_weight_one_computes_one_half():
    sizes = []

    def recording(x, t, cond):
        sizes.append(len(x))
        return model(x, t, cond)

    batched_cfg(recording, COND, NULL, 1.0)(X, 0.5)
    assert sizes == [6]


def test_batched_cfg_on_states_of_several_parts():
    def on_parts(x, t, cond):
        return {"a": x["a"] + cond, "b": x["b"] * cond}

    x = {"a": X[:, :2], "b": X[:, 2:]}
    cond, null = torch.full((6, 2), 2.0).double(), torch.zeros(1, 2).double()
    v = batched_cfg(on_parts, cond, null, 3.0)(x, 0.5)
    torch.testing.assert_close(v["a"], x["a"] + 6.0)
    torch.testing.assert_close(v["b"], x["b"] * 6.0)


def test_compose_of_one_condition_is_cfg_and_of_many_adds_up():
    single = compose(unconditional, [(conditional, 2.5)])(X, 0.3)
    torch.testing.assert_close(single, guided(conditional, cfg(unconditional, 2.5))(X, 0.3))
    other = counted(lambda x, t: x)
    null = counted(unconditional)
    v = compose(null, [(conditional, 2.0), (other, 0.5)])(X, 0.3)
    base = unconditional(X, 0.3)
    torch.testing.assert_close(v, base + 2.0 * (conditional(X, 0.3) - base) + 0.5 * (X - base))
    assert (null.calls, other.calls) == (1, 1)


@pytest.mark.parametrize("w", [0.0, 1.0, 1.2, 5.0, torch.linspace(0, 4, 6)], ids=str)
def test_residual_guidance_away_from_its_own_prediction_is_none(w):
    """With x1_neg = D and delta = 1 both velocities agree, whatever the weight."""
    t = 0.35
    v = conditional(X, t)
    guide = cfg_to_endpoint(X + (1 - t) * v, w)
    torch.testing.assert_close(guide(X, t, v), v, rtol=0, atol=1e-12)


def test_residual_guidance_by_hand_costs_no_call():
    x1_negative = torch.ones(6, 4, dtype=torch.float64)
    field = counted(conditional)
    v = guided(field, cfg_to_endpoint(x1_negative, 1.4, delta=0.8))(X, 0.25)
    negative = 0.8 * (x1_negative - X) / 0.75
    torch.testing.assert_close(v, negative + 1.4 * (conditional(X, 0.25) - negative))
    assert field.calls == 1


def test_one_time_negative_costs_one_more_call():
    field, null = counted(conditional), counted(unconditional)
    x1_negative = X + null(X, 0.0)
    integrate(guided(field, cfg_to_endpoint(x1_negative, 1.2)), X, plan(uniform(7), Euler()))
    assert field.calls + null.calls == 8


def test_residual_guidance_on_rotations():
    space = Rotations()
    q, q_negative = space.prior((2, 5), generator=torch.Generator().manual_seed(1)).double()
    v = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).double()
    got = cfg_to_endpoint(q_negative, 2.0, space=space)(q, 0.5, v)
    negative = space.log(q, q_negative) / 0.5
    torch.testing.assert_close(got, negative + 2.0 * (v - negative))


def test_residual_guidance_has_no_velocity_at_the_end():
    guide = cfg_to_endpoint(X, 1.2)
    with pytest.raises(ValueError, match=r"no velocity at the end point, got t=1.0; .* Midpoint"):
        guide(X, 1.0, X)
    integrate(guided(conditional, guide), X, plan(uniform(3), Midpoint()))  # never gets there


@pytest.mark.parametrize("solver", [Heun(), RK4(), Adams(3), FireFlow()], ids=str)
def test_guides_act_at_every_stage_of_every_solver(solver):
    """A guided field is a field: the same numbers as one written out."""
    moves = plan(uniform(9), solver)

    def written_out(x, t):
        return unconditional(x, t) + 2.0 * (conditional(x, t) - unconditional(x, t))

    end = integrate(guided(conditional, cfg(unconditional, 2.0)), X, moves)
    torch.testing.assert_close(end, integrate(written_out, X, moves))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: cfg(unconditional, 2.0, interval=(0.6, 0.4)),
            r"interval must be ordered, got \(0.6",
        ),
        (lambda: cfg(unconditional, 2.0, rescale=1.5), r"rescale must be in \[0, 1\], got 1.5"),
        (lambda: cfg(unconditional, torch.ones(6, 1)), r"must have shape \(b,\), got \(6, 1\)"),
        (
            lambda: compose(unconditional, [(conditional, torch.ones(()))]),
            r"must have shape \(b,\)",
        ),
        (lambda: cfg_to_endpoint(X, torch.ones(2, 2)), r"must have shape \(b,\), got \(2, 2\)"),
        (
            lambda: batched_cfg(model, torch.ones(6, 3), torch.ones(2, 3), 2.0),
            r"conditions must have one shape, got \(6, 3\) and null \(2, 3\)",
        ),
        (
            lambda: batched_cfg(model, {"a": torch.ones(6)}, {"b": torch.ones(6)}, 2.0),
            r"conditions must have one structure, got dict and dict",
        ),
        (
            lambda: batched_cfg(model, torch.ones(6), None, 2.0),
            r"conditions must have one structure, got Tensor and NoneType",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
