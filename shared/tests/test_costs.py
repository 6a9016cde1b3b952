"""Predictions of time and memory: exact for what follows the model, near for a real network."""

from __future__ import annotations

import pytest
import torch
from rectiflow import costs
from rectiflow.costs import CostModel, Costs, Load, Work, fit_costs, peak_memory
from rectiflow.memory import free_memory

CPU = torch.device("cpu")
SIZES = ((1, 32), (1, 256), (2, 128), (4, 64), (8, 48), (4, 192))


def attention(load: Load) -> None:
    """A network whose memory grows with the square of the tokens."""
    x = torch.ones(load.rows, load.tokens, 32)
    for _ in range(load.calls):
        weights = (x @ x.mT).softmax(-1)
        x = weights @ x


class Clock:
    """Time that passes as a formula says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def run(self, load: Load) -> None:
        pairs = load.rows * load.tokens**2
        self.now += 0.5 + 1e-4 * pairs + load.calls * (0.01 + 2e-5 * load.rows * load.tokens)


def test_times_that_follow_the_model_are_found():
    clock = Clock()
    model = fit_costs(Work(clock.run, SIZES, (2, 5)), resting=0.0, device=CPU, clock=clock)
    for load in (Load(5, 120, 50), Load(1, 300, 7)):
        start = clock.now
        clock.run(load)
        assert model.seconds(load) == pytest.approx(clock.now - start, rel=1e-3)
        assert model.seconds(Load(load.rows, load.tokens, load.calls, 3)) == pytest.approx(
            3 * model.seconds(load)
        )


def test_memory_of_a_network_is_predicted_to_15_per_cent():
    model = fit_costs(Work(attention, SIZES, (2, 5)), resting=100.0, device=CPU)
    for load in (Load(6, 128, 9), Load(2, 256, 3), Load(1, 64, 2)):
        found = peak_memory(lambda load=load: attention(load), CPU)
        assert model.bytes(load) == pytest.approx(100 + found, rel=0.15)


def test_peak_memory_counts_what_lives_together():
    def run(keep: bool):
        def call():
            first = torch.zeros(1000)
            view = first.view(10, 100)
            if not keep:
                del first, view
            return torch.ones(500)

        return call

    assert peak_memory(run(keep=False), CPU) == 4000
    assert peak_memory(run(keep=True), CPU) == 6000


def test_what_fits_is_told():
    model = CostModel([0] * 4, [0] * 4, [900.0, 1.0, 10.0, 1.0], 5000.0)
    limit = 115_000.0
    rows = model.most_rows(100, limit)
    assert model.bytes(Load(rows, 100, 1)) * costs.MARGIN <= limit
    assert model.bytes(Load(rows + 1, 100, 1)) * costs.MARGIN > limit
    assert model.most_rows(1000, limit) == 0
    tokens = model.most_tokens(limit)
    assert model.most_rows(tokens, limit) >= 1 > model.most_rows(tokens + 1, limit)
    other = CostModel([1.0, 0, 0, 0], [0] * 4, [0.0, 0.0, 0.1, 0.0], 0.0)
    parts = Costs({"": model, "after": other})
    after = Load(1, 1000, 1, 4, "after")
    found = parts.estimate([Load(1, 10, 1), Load(3, 100, 1), Load(2, 20, 1), after])
    assert found.largest == Load(3, 100, 1)
    assert found.memory == model.bytes(found.largest)
    assert found.seconds == 4.0
    assert parts.of(after).bytes(after) == pytest.approx(100.0)
    assert free_memory(CPU) > 2**20
