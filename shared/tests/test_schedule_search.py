"""Searched grids on the golden mixture: the optima of all 1140 candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.search import (
    Evolution,
    SearchedGrids,
    Skipping,
    distance_to_fine,
    search_grid,
    search_skips,
)
from rectiflow.solvers import Euler, Midpoint
from torch import nn

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests/golden/core_solvers.npz")
POOL = [i / 21 for i in range(1, 21)]


@pytest.fixture(scope="module")
def objectives():
    flow = GaussianMixtureFlow(*(torch.from_numpy(GOLDEN[name]) for name in ("w", "m", "C")))
    x0, exact = torch.from_numpy(GOLDEN["x0"]), torch.from_numpy(GOLDEN["exact"])
    found = {s: distance_to_fine(flow.velocity, x0, s, steps=256) for s in (Euler(), Midpoint())}
    return found, flow, x0, exact


def test_the_best_grids_of_the_mixture_are_found(objectives):
    found, *_ = objectives
    tried = {}
    for solver, best in ((Euler(), (4, 8, 12)), (Midpoint(), (5, 8, 11))):
        seen = []

        def counted(times, objective=found[solver], seen=seen):
            seen.append(times)
            return objective(times)

        result = search_grid(counted, POOL, 3)
        assert result.chosen == best
        assert len(seen) == len(set(seen)) == result.tried < 1140
        tried[solver] = result
    assert tried[Euler()].score == pytest.approx(0.3176897, abs=2e-5)
    spread = found[Euler()]((0.0, *(POOL[i] for i in (4, 9, 14)), 1.0))
    assert spread == pytest.approx(0.3460950, abs=2e-5)


def test_a_search_is_seeded_and_never_worse_than_equal_steps(objectives):
    found, *_ = objectives
    little = Evolution(population=6, parents=3, epochs=2, mutations=3, crossovers=1)
    first, again, other = (
        search_grid(found[Euler()], POOL, 3, evolution=little, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    spread = found[Euler()]((0.0, *(POOL[i] for i in (4, 9, 14)), 1.0))
    assert max(first.score, other.score) <= spread
    none = Evolution(population=1, parents=1, epochs=1, mutations=0, crossovers=0)
    given = search_grid(found[Euler()], POOL, 3, evolution=none, init=[(4, 8, 12)])
    assert given.chosen == (4, 8, 12)


def test_an_interrupted_search_ends_where_it_would_have(objectives, tmp_path):
    found, *_ = objectives
    how = Evolution(population=8, parents=3, epochs=4, mutations=4, crossovers=2)
    whole = search_grid(found[Euler()], POOL, 3, evolution=how)
    calls = []

    def failing(times):
        calls.append(times)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return found[Euler()](times)

    with pytest.raises(KeyboardInterrupt):
        search_grid(failing, POOL, 3, evolution=how, store=tmp_path / "s.json")
    kept = len(calls)
    resumed = search_grid(failing, POOL, 3, evolution=how, store=tmp_path / "s.json")
    assert resumed == whole
    assert len(calls) - kept < whole.tried  # what was saved is not evaluated again
    with pytest.raises(ValueError, match="holds another search"):
        search_grid(failing, POOL, 2, evolution=how, store=tmp_path / "s.json")


def test_bad_pools_are_refused():
    for pool, interior, message in (
        ([0.5, 0.2], 1, "must increase strictly"),
        ([0.0, 0.5], 1, "must increase strictly"),
        ([0.5], 2, "expected 1 to 1 interior times, got 2"),
    ):
        with pytest.raises(ValueError, match=message):
            search_grid(lambda times: 0.0, pool, interior)
    with pytest.raises(ValueError, match="cannot hold"):
        Evolution(population=10)


class Residual(nn.Module):
    """Adds its own number."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return x + self.value


def test_blocks_that_matter_least_are_left_out():
    blocks = [Residual(value) for value in (1.0, 0.01, 0.5)]

    def field(x, t):
        for block in blocks:
            x = block(x)
        return x

    times, x = [0.0, 0.5, 1.0], torch.zeros(1)

    def objective(skipped):
        short = Skipping(blocks, times, skipped).of(field)
        return sum(abs(float(short(x, t) - field(x, t))) for t in (0.0, 0.5))

    found = search_skips(objective, times, 3, share=(0.3, 0.4))
    assert found.chosen == (1, 4)  # the middle block in both steps
    short = Skipping(blocks, times, {(0, 1), (1, 0)}).of(field)
    assert [float(short(x, t)) for t in (0.0, 0.49, 0.5, 1.0)] == pytest.approx(
        [1.5, 1.5, 0.51, 0.51]
    )
    assert float(field(x, 0.0)) == pytest.approx(1.51)  # nothing stays


def test_searched_grids_lie_beside_weights(tmp_path):
    grids = SearchedGrids({2: (0.0, 0.3, 1.0)}, {2: {"solver": "Euler()"}})
    grids.save(tmp_path)
    again = SearchedGrids.load(tmp_path)
    assert again(2) == [0.0, 0.3, 1.0]
    assert repr(again) == "searched(2)"
    with pytest.raises(ValueError, match=r"no grid of 3 steps was searched.*expected steps of 2"):
        again(3)
    with pytest.raises(FileNotFoundError, match="no searched grids lie beside these weights"):
        SearchedGrids.load(tmp_path / "other")
