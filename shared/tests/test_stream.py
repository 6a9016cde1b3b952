"""Streams: each request comes out as it would alone, in order, at one call a push."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch
from rectiflow.fields import bind, counted
from rectiflow.grids import uniform
from rectiflow.guidance import cfg, cfg_to_endpoint, guided, negative_once
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Adams, DPMSolverPP2M, Euler, FireFlow, Heun
from rectiflow.stream import Pace, SimilarityFilter, Stream, pipelined


def elementwise(x, t, cond):
    return torch.sin(3 * x + t[:, None]) * cond - x * x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [Euler(), DPMSolverPP2M(), Adams(3, start=None)], ids=str)
def test_a_stream_equals_runs_one_by_one_bit_for_bit(solver, dtype):
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(1 + i % 2, 4, generator=generator, dtype=dtype) for i in range(7)]
    conds = [torch.randn(len(x), 4, generator=generator, dtype=dtype) for x in starts]
    stream = Stream(elementwise, uniform(5), solver)
    made = list(stream.map(zip(starts, conds, strict=True)))
    alone = [
        integrate(bind(elementwise, cond), x0, plan(uniform(5), solver))
        for x0, cond in zip(starts, conds, strict=True)
    ]
    assert len(made) == len(alone)
    assert all(map(torch.equal, made, alone))
    assert stream.calls == 7 + 5 - 1


def test_a_network_agrees_to_rounding():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(9, 32), torch.nn.SiLU(), torch.nn.Linear(32, 8))

    def model(x, t):
        return net(torch.cat([x, t[:, None]], dim=1))

    starts = [torch.randn(1, 8) for _ in range(6)]
    stream = Stream(model, uniform(4))
    made = list(stream.map((x, None) for x in starts))
    with torch.no_grad():
        alone = [integrate(bind(model), x, plan(uniform(4), Euler())) for x in starts]
    assert torch.allclose(torch.cat(made), torch.cat(alone), atol=1e-5)


def test_results_come_steps_less_one_pushes_later():
    stream = Stream(lambda x, t: 0 * x, uniform(3))
    found = [stream.push(torch.full((1, 1), float(i))) for i in range(5)]
    assert [None if x is None else int(x) for x in found] == [None, None, 0, 1, 2]
    assert [int(x) for x in stream.flush()] == [3, 4]
    assert list(stream.flush()) == []
    assert stream.push(torch.ones(1, 1)) is None  # and it can go on


def test_solvers_of_several_stages_are_refused():
    for solver in (Heun(), FireFlow()):
        with pytest.raises(ValueError, match="one evaluation a step"):
            Stream(lambda x, t: x, uniform(3), solver)
    stream = Stream(lambda x, t: x, uniform(9), Adams(3))
    with pytest.raises(ValueError, match="evaluates at"):
        stream.push(torch.ones(1, 1))


def residual_runs(w, x0, conditional, unconditional):
    moves = plan(uniform(4), Euler())
    full = integrate(guided(conditional, cfg(unconditional, w)), x0, moves)
    plain, null = counted(conditional), counted(unconditional)
    once = integrate(guided(plain, negative_once(null, w)), x0, moves)
    return full, once, plain.calls, null.calls


def test_residual_guidance_costs_one_call_more_or_none():
    def straight_to(end):
        return lambda x, t: (end - x) / (1 - t)

    x0 = torch.randn(3, 2, dtype=torch.float64)
    full, once, plain, null = residual_runs(2.0, x0, straight_to(1.0), straight_to(-1.0))
    assert (plain, null) == (4, 1)
    assert torch.allclose(full, once, atol=1e-12)  # the negative flow is straight: nothing is lost
    # With the negative at the data prediction there is nothing to be guided away from.
    x1 = torch.ones(3, 2, dtype=torch.float64)
    for w in (1.0, 3.0):
        own = integrate(
            guided(straight_to(1.0), cfg_to_endpoint(x1, w)), x0, plan(uniform(4), Euler())
        )
        assert torch.allclose(own, x1, atol=1e-12)


def test_each_request_has_its_own_guidance():
    def model(x, t):
        return 1.0 - x

    ends = [torch.tensor([[2.0]]), torch.tensor([[-3.0]])]
    stream = Stream(model, uniform(3))
    made = [
        found
        for end in ends
        if (found := stream.push(torch.zeros(1, 1), guides=[cfg_to_endpoint(end, 1.5)])) is not None
    ]
    made += list(stream.flush())
    for end, found in zip(ends, made, strict=True):
        field = guided(bind(model), cfg_to_endpoint(end, 1.5))
        assert torch.equal(found, integrate(field, torch.zeros(1, 1), plan(uniform(3), Euler())))


def test_the_filter_passes_over_what_is_alike():
    still, global_state = torch.randn(400), torch.random.get_rng_state()
    chosen = SimilarityFilter(torch.Generator().manual_seed(0))
    same = [chosen.skips(still) for _ in range(2000)]
    assert not same[0]
    assert sum(same) == 2000 - len(range(0, 2000, 11))  # ten of eleven
    assert torch.equal(torch.random.get_rng_state(), global_state)
    fresh = SimilarityFilter(torch.Generator().manual_seed(0))
    assert not any(fresh.skips(torch.randn(400)) for _ in range(50))
    # A cosine half way between the threshold and 1 is passed over every second time.
    base = torch.tensor([1.0, 0.0])
    near = torch.tensor([0.99, (1 - 0.99**2) ** 0.5])
    chosen = SimilarityFilter(torch.Generator().manual_seed(0), most=10**6)
    skipped = 0
    for _ in range(1000):
        chosen.last = base.double()
        skipped += chosen.skips(near)
    assert skipped == pytest.approx(500, abs=50)
    with pytest.raises(ValueError, match="threshold must lie"):
        SimilarityFilter(torch.Generator(), threshold=1.0)


def test_threads_keep_the_order_within_bounded_queues():
    ahead, done = [], []

    def items():
        for i in range(20):
            ahead.append(i - len(done))
            yield i

    pace = Pace()
    for found in pipelined(items(), lambda i: i * i, size=2, pace=pace):
        time.sleep(0.001)
        done.append(found)
    assert done == [i * i for i in range(20)]
    assert max(ahead) <= 8  # two queues of two, one in each thread, one being used
    assert len(pace.latencies) == 20
    assert 0 < pace.latency <= pace.seconds
    assert pace.throughput == pytest.approx(20 / pace.seconds)


@pytest.mark.parametrize("where", ["items", "work"])
def test_errors_of_threads_are_raised_where_results_are_taken(where):
    def items():
        yield 1
        if where == "items":
            raise OSError("the line is cut")

    def work(i):
        if where == "work":
            raise OSError("the line is cut")
        return i

    with pytest.raises(OSError, match="the line is cut"):
        list(pipelined(items(), work))


def test_threads_end_when_nobody_takes_more():
    before = threading.active_count()
    endless = pipelined(itertools.count(), lambda i: i)
    assert next(endless) == 0
    endless.close()
    for _ in range(50):
        if threading.active_count() <= before:
            break
        time.sleep(0.05)
    assert threading.active_count() <= before
