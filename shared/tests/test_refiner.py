"""FlowTurbo: the three kinds of steps, their cost, and a refiner that learns."""

from __future__ import annotations

import pytest
import torch
from rectiflow.fields import counted
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.refiner import FlowTurbo, Refined, Refiner, RefinerObjective
from rectiflow.solvers import Heun, PseudoCorrector


def field(x, t):
    return torch.cos(x + t)


class Exact:
    """A refiner that knows the field; its calls are counted."""

    calls = 0

    def __call__(self, x, t, near):
        self.calls += 1
        return field(x, t) - near


@pytest.mark.parametrize(
    ("steps", "heun", "refined", "kinds"),
    [
        (9, 1, 3, (1, 5, 3)),
        (9, 2, 3, (2, 4, 3)),
        (4, 0, 2, (0, 2, 2)),
        (3, 1, 5, (1, 0, 2)),
        (2, 4, 3, (2, 0, 0)),
        (1, 0, 3, (0, 1, 0)),
    ],
)
def test_the_cost_is_that_of_the_formula(steps, heun, refined, kinds):
    refiner, velocity = Exact(), counted(field)
    moves = plan(uniform(steps), FlowTurbo(refiner, heun, refined))
    end = integrate(velocity, torch.zeros(2, 1, dtype=torch.float64), moves)
    h, p, r = kinds
    assert velocity.calls == moves.nfe == 2 * h + p + (h == 0 and p > 0)
    assert refiner.calls == 2 * r
    fine = integrate(field, torch.zeros(2, 1, dtype=torch.float64), plan(uniform(400), Heun()))
    assert (end - fine).abs().max() < 0.5 / steps**2


def test_exact_refiners_make_heuns_steps():
    x0 = torch.randn(4, 2, dtype=torch.float64)
    # Refined steps carry their first velocity, which the exact refiner corrects wholly.
    turbo = integrate(field, x0, plan(uniform(5), FlowTurbo(Exact(), 1, 4)))
    assert torch.allclose(turbo, integrate(field, x0, plan(uniform(5), Heun())), atol=1e-14)
    pseudo = integrate(field, x0, plan(uniform(5), FlowTurbo(Exact(), 0, 0)))
    assert torch.equal(pseudo, integrate(field, x0, plan(uniform(5), PseudoCorrector())))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_refiner_begins_as_nothing_and_takes_any_size(axes, tmp_path):
    refiner = Refiner(2, axes, width=4)
    for size in (3, 5):
        x = torch.randn(2, 2, *(size,) * axes)
        assert torch.equal(refiner(x, torch.rand(2), x), torch.zeros_like(x))
    refiner.save_pretrained(tmp_path / "refiner")
    made = FlowTurbo.load(tmp_path, 1, 2)
    assert isinstance(made.refiner, Refined)
    assert repr(made).startswith("FlowTurbo(refiner=Refiner(")
    with pytest.raises(FileNotFoundError, match="no refiner lies beside these weights"):
        FlowTurbo.load(tmp_path / "refiner")
    wide = torch.zeros(2, 3, *(3,) * axes)
    with pytest.raises(ValueError, match="the state has 3 channels, got a refiner of 2"):
        refiner(wide, torch.rand(2), wide)


class Teacher(torch.nn.Module):
    def forward(self, x, t):
        return -3 * x * (1 + t.reshape(-1, 1, 1))


def test_a_refiner_learns_what_a_short_way_changes():
    torch.manual_seed(0)
    objective = RefinerObjective(Refiner(2, 1, width=16, layers=1), Teacher())
    optimizer = torch.optim.Adam(objective.network.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(300):
        batch = {name: torch.randn(32, 2, 6, generator=generator) for name in ("x0", "x1")}
        found = objective(batch, generator)
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        kept.append((found["loss"].item(), found["unrefined"].item()))
    assert kept[0][0] == pytest.approx(kept[0][1])
    refined, unrefined = (sum(column) for column in zip(*kept[-50:], strict=True))
    assert refined < 0.3 * unrefined
    solver = FlowTurbo(Refined(objective.network.eval()), 1, 6)
    x0 = torch.randn(64, 2, 6, generator=generator)

    def velocity(x, t):
        return -3 * x * (1 + t)

    exact = x0 * torch.exp(torch.tensor(-4.5))
    turbo = integrate(velocity, x0, plan(uniform(12), solver))
    assert (turbo - exact).square().mean().sqrt() < 0.1
