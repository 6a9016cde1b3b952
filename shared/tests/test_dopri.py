"""Adaptive steps, beside torchdiffeq on the problems of its own tests."""

from __future__ import annotations

import math

import pytest
import torch
import torchdiffeq
from rectiflow.fields import counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.likelihood import log_likelihood
from rectiflow.solvers import Context, Dopri5
from rectiflow.sources import Normal

MATRIX = torch.randn(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LINEAR = (MATRIX - MATRIX.T) * 0.5  # rotations: neither grows nor decays
A = 0.2


def constant_solution(t):
    return A * t + 1.0


def sine_solution(t):
    return (
        -0.5 * t**4 * math.cos(2 * t)
        + 0.5 * t**3 * math.sin(2 * t)
        + 0.25 * t**2 * math.cos(2 * t)
        - t**3
        + 2 * t**4
        + (math.pi - 0.25) * t**2
    )


# name: (rate(t, y), start, stop, y(start), y(stop)); the constant, sine and linear problems.
PROBLEMS = {
    "constant": (
        lambda t, y: A + (y - (A * t + 1.0)) ** 5,
        1.0,
        8.0,
        torch.tensor([[constant_solution(1.0)]], dtype=torch.float64),
        torch.tensor([[constant_solution(8.0)]], dtype=torch.float64),
    ),
    "sine": (
        lambda t, y: 2 * y / t + t**4 * math.sin(2 * t) - t**2 + 4 * t**3,
        1.0,
        8.0,
        torch.tensor([[sine_solution(1.0)]], dtype=torch.float64),
        torch.tensor([[sine_solution(8.0)]], dtype=torch.float64),
    ),
    "linear": (
        lambda t, y: y @ LINEAR.T,
        1.0,
        8.0,
        torch.ones(1, 10, dtype=torch.float64),
        torch.ones(1, 10, dtype=torch.float64) @ torch.linalg.matrix_exp(7.0 * LINEAR).T,
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("rtol", "atol"),
    [(1e-7, 1e-9), (1e-5, 1e-5), (1e-10, 1e-12)],
    ids=["default", "loose", "tight"],
)
@pytest.mark.parametrize("backwards", [False, True], ids=["up", "down"])
def test_beside_torchdiffeq(name, rtol, atol, backwards):
    """As many evaluations within 10 %, or within three steps where they are few; as exact."""
    rate, start, stop, y0, y1 = PROBLEMS[name]
    if backwards:
        start, stop, y0, y1 = stop, start, y1, y0
    theirs = counted(lambda y, t: rate(t.item(), y))
    times = torch.tensor([start, stop], dtype=torch.float64)
    reference = torchdiffeq.odeint(
        lambda t, y: theirs(y, t), y0, times, rtol=rtol, atol=atol, method="dopri5"
    )[-1]
    ours = counted(lambda y, t: rate(t, y))
    end = integrate(ours, y0, plan([start, stop], Dopri5(rtol, atol)))
    assert abs(ours.calls - theirs.calls) <= max(0.1 * theirs.calls, 18)
    error, wanted = ((y - y1).abs().max().item() for y in (end, reference))
    scale = rtol * y1.abs().max().item() + atol
    assert error <= 3 * wanted + scale


def test_fifth_order_of_its_steps():
    """The tolerance divided by 2^5 makes twice as many steps and an error 2^5 smaller."""
    rate, start, stop, y0, y1 = PROBLEMS["linear"]
    errors, calls = [], []
    for tolerance in (1e-6, 1e-6 / 32**2):
        field = counted(lambda y, t: rate(t, y))
        end = integrate(field, y0, plan([start, stop], Dopri5(tolerance, tolerance)))
        errors.append((end - y1).abs().max().item())
        calls.append(field.calls)
    assert calls[1] / calls[0] == pytest.approx(4, rel=0.2)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(10, abs=2)


def test_moves_hand_on_the_last_velocity():
    field = counted(lambda x, t: -x)
    moves = plan(uniform(4), Dopri5(1.0, 1.0))
    integrate(field, torch.ones(1, 1, dtype=torch.float64), moves)
    assert field.calls == moves.nfe == 2 + 3 + 4 * 6  # one step a move


def test_rows_have_steps_of_their_own():
    rates = torch.tensor([[1.0], [5.0], [20.0]], dtype=torch.float64)
    x = torch.ones(3, 1, dtype=torch.float64)
    start, stop = torch.zeros(3, dtype=torch.float64), torch.tensor([1.0, 0.5, 1.0]).double()
    field = counted(lambda x, t: torch.cos(rates[: len(x)] * t[:, None]) * rates[: len(x)])
    end, _ = Dopri5().step(field, x, start, stop, Context())
    exact = 1 + torch.sin(rates * stop[:, None])
    torch.testing.assert_close(end, exact, rtol=0, atol=1e-6)
    slow = counted(lambda x, t: torch.cos(rates[:1] * t[:, None]) * rates[:1])
    alone, _ = Dopri5().step(slow, x[:1], start[:1], stop[:1], Context())
    assert torch.equal(alone, end[:1])
    assert slow.calls < field.calls


def test_named_parts_and_likelihoods():
    x1 = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source = Normal().log_prob
    out = log_likelihood(lambda x, t: 0.7 * x, x1, source, plan([0.0, 1.0], Dopri5()))
    exact = source(x1 * math.exp(-0.7)) - 0.7 * 3
    torch.testing.assert_close(out.log_prob, exact, rtol=0, atol=1e-6)
    back = reverse(plan([0.0, 1.0], Dopri5()))
    parts = integrate(lambda x, t: {k: -v for k, v in x.items()}, {"a": x1, "b": x1[:, 0]}, back)
    torch.testing.assert_close(parts["b"], x1[:, 0] * math.e, rtol=1e-6, atol=0)


def test_gradients():
    x = torch.tensor([[0.3], [-0.7]], dtype=torch.float64, requires_grad=True)

    def end(x):
        moves = plan([0.0, 1.0], Dopri5(1e-4, 1e-4))
        return integrate(lambda x, t: torch.sin(x), x, moves, differentiable=True)

    assert torch.autograd.gradcheck(end, (x,), atol=1e-3)


@pytest.mark.parametrize(
    ("solver", "field"),
    [
        (Dopri5(max_steps=3), lambda x, t: torch.sin(50 * x)),
        (Dopri5(), lambda x, t: x * math.nan),
        (Dopri5(), lambda x, t: 1 / (0.5 - t) + x),
    ],
    ids=["too many", "nan", "singular"],
)
def test_a_run_that_gets_nowhere_says_how_far_it_got(solver, field):
    with pytest.raises(RuntimeError, match=r"could not reach the end of its move, got as far as"):
        integrate(field, torch.ones(1, 1, dtype=torch.float64), plan([0.0, 1.0], solver))
