"""PDE-Refiner: its ways to step, their data, rollouts and their measures."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from rectiflow_pde.data.grids import KsDraws, PreparedGrids, SmokeDraws, solve_grids
from rectiflow_pde.data.states import WaveData, Waves, solve_few
from rectiflow_pde.metrics.rollouts import agreeing, correlated, error_spectrum
from rectiflow_pde.networks.circle import CircleUnet
from rectiflow_pde.refinement import OneStep, Refinement, RefinementFlow
from rectiflow_pde.rollout import SCALE, RolloutPipeline, RolloutSettings, read_state
from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky

WAYS = [OneStep(), Refinement(), Refinement(5, 1e-5), RefinementFlow()]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return solve_few(tmp_path_factory.mktemp("waves") / "shards")


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    network = CircleUnet(hidden=8, multipliers=(1, 1), blocks=1)
    return RolloutPipeline(network, settings=RolloutSettings())


def oracle(way, y, x, t, numbers):
    """Return what a network that knows the change would say."""
    if isinstance(way, OneStep):
        return y
    level = int((t[0] * way.steps / 1000).round())
    a, s = way.kept[level].sqrt(), way.noise[level].sqrt()
    return ((a * x[:, 1:] - y) / s).float()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_steps_right_with_a_network_that_knows(way):
    generator = torch.Generator().manual_seed(0)
    u, y, numbers = torch.randn(2, 1, 16), torch.randn(2, 1, 16), torch.zeros(2, 2)
    network, calls = partial(oracle, way, y), []

    def counted(x, t, numbers):
        calls.append(float(t[0]))
        return network(x, t, numbers)

    found = way.change(counted, u, numbers, lambda: torch.randn(u.shape, generator=generator))
    assert torch.allclose(found, y, atol=5e-4)
    assert len(calls) == way.calls
    assert calls[0] == 1000  # as the training told it where there is nothing but noise


def test_refiners_are_taught_what_the_sampler_asks():
    way = Refinement()
    y, noise = torch.randn(2, 4, 1, 16, generator=torch.Generator().manual_seed(0))
    level = torch.arange(4)
    seen, wanted = way.noised(y.double(), noise.double(), level)
    a, s = (each[level].sqrt()[:, None, None] for each in (way.kept, way.noise))
    assert torch.allclose(a * seen - s * wanted, y.double())
    assert torch.allclose(s * seen + a * wanted, noise.double())
    assert float(way.noise[0]) == pytest.approx(4e-7, rel=1e-12)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Refinement(0)


def test_data_are_steps_of_the_solver(shards):
    data = WaveData(shards, 2, stride=4)
    assert data.points == 32
    waves = data.dataset
    example, again = waves[0, 3], waves[0, 3]
    assert torch.equal(example["u"], again["u"])
    assert len({float(waves[0, draw]["u"][0, 0]) for draw in range(6)}) > 1
    equation = KuramotoSivashinsky(length=16.0, points=32, step=0.1)
    later = equation.solve(example["u"][0].double().numpy(), [0.8])[0]
    assert np.allclose(later, example["later"][0], atol=1e-4)
    assert float(example["space"]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="more than the stride, 30"):
        WaveData(shards, 2, stride=30)


def test_other_flows_are_refused(tmp_path):
    solve_grids(tmp_path / "smoke", SmokeDraws(cells=16, steps=(1, 2)), 1, fractions={"train": 1.0})
    with pytest.raises(ValueError, match="expected 'ks flows'"):
        WaveData(tmp_path / "smoke")


def test_lengths_and_times_are_drawn(tmp_path):
    equation = KuramotoSivashinsky(length=16.0, points=32, step=0.1)
    out = tmp_path / "shards"
    solve_grids(out, KsDraws(equation, (0.0, 0.2, 0.4)[1:], 0.1), 5, fractions={"train": 1.0})
    table = PreparedGrids(out).table
    for name, middle in (("size", 16.0), ("frame_step", 0.2)):
        assert len(set(table[name].tolist())) == 5
        assert all(0.9 * middle <= value <= 1.1 * middle for value in table[name])
    with pytest.raises(ValueError, match="spread must lie"):
        KsDraws(spread=1.0)


def test_rollouts_depend_on_seed_and_number_alone(pipe):
    torch.nn.init.normal_(pipe.network.final.weight, std=0.01)
    state = np.sin(2 * np.pi * np.arange(16) / 16)
    told = {"length": 4.0, "steps": 3}
    whole = pipe(state, num=3, **told)
    assert whole.states.shape == (3, 4, 16)
    assert whole.times.tolist() == pytest.approx([0, 0.8, 1.6, 2.4])
    alone = pipe(state, indices=[2], **told)
    assert np.allclose(alone.states[0], whole.states[2], atol=1e-6)
    assert not np.allclose(whole.states[0], whole.states[2], atol=1e-6)
    assert len(whole.agreement().per_frame) == 4
    flow = pipe(state, way=pipe.settings.flow, **told)
    assert np.isfinite(flow.states).all()
    assert "outside of the training's 0.225 to 0.275" in pipe(state, length=8.0).warnings[0]


def test_a_network_of_nothing_steps_by_noise_alone(pipe):
    """The last layer begins as zero: what is left of the chain is its noise, ever smaller."""
    state = np.zeros(16, np.float32)
    one = RolloutPipeline(pipe.network, settings=RolloutSettings(refinements=0))
    assert np.array_equal(one(state, length=4.0, steps=2).states[0], np.zeros((3, 16)))
    change = pipe(state, length=4.0, steps=1).states[0, 1] / SCALE
    assert 0 < np.abs(change).max() < 1


@pytest.mark.parametrize(
    ("state", "told", "said"),
    [
        (np.zeros((2, 16)), {}, "one row of values"),
        (np.zeros(17), {}, "a multiple of 2"),
        (np.full(16, np.nan), {}, "finite real numbers"),
        (np.full(16, 1e9), {}, "grew without bound in step 1"),
        (np.zeros(16), {"length": 0.0}, "must be positive"),
        (np.zeros(16), {"steps": 0}, "at least 1"),
    ],
)
def test_states_that_cannot_be_stepped(pipe, state, told, said):
    with pytest.raises(ValueError, match=said):
        pipe(state, **({"length": 4.0, "steps": 1} | told))


def test_states_from_files(tmp_path):
    row = np.arange(16.0)
    np.save(tmp_path / "a.npy", np.stack([0 * row, row]))
    state, length, [note] = read_state(tmp_path / "a.npy")
    assert np.array_equal(state, row)
    assert length is None
    assert "the last is taken" in note
    np.savez(tmp_path / "b.npz", u=row, length=4.0)
    assert read_state(tmp_path / "b.npz")[1:] == (4.0, [])
    np.savez(tmp_path / "c.npz", v=row)
    with pytest.raises(ValueError, match=r"holds v \(16,\); expected u"):
        read_state(tmp_path / "c.npz")
    np.savez(tmp_path / "e.npz", u=row, length=[4.0, 5.0])
    with pytest.raises(ValueError, match="and one length"):
        read_state(tmp_path / "e.npz")
    (tmp_path / "d.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        read_state(tmp_path / "d.npy")


def test_measures_of_rollouts():
    grid = 2 * np.pi * np.arange(32) / 32
    true = np.stack([[np.sin(grid)] * 3] * 2)
    pred = true.copy()
    pred[:, 1] += 0.1 * np.sin(5 * grid)
    pred[:, 2] = np.sin(grid + np.array([[0.0], [np.pi]]))  # one right, one opposite
    found = correlated(pred, true, [0.0, 1.0, 2.0])
    assert found.per_frame == pytest.approx([1.0, 1 / np.sqrt(1.01), 0.0], abs=1e-9)
    assert found.first_below(0.8) == 2.0
    spectrum = error_spectrum(pred[:, 1], true[:, 1])
    assert spectrum[5] == pytest.approx(0.1**2 / 4)
    assert spectrum.sum() == pytest.approx(spectrum[5])
    assert agreeing(pred[:, 1:], [0.0, 1.0]).per_frame[1] == pytest.approx(-1)
    with pytest.raises(ValueError, match="at least 2 samples"):
        agreeing(pred[:1], [0.0])


def test_waves_give_whole_flows(shards):
    waves = Waves(PreparedGrids(shards), [0, 1], 4)
    assert waves.states(1).shape == (12, 32)
    assert waves.numbers(0) == pytest.approx((0.5, 0.2))
