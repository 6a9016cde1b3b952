"""Objective, diffusion as a flow, pipeline, results, pairs, checkpoints of the authors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from e3nn import o3
from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow_trajectories import EGTN, Trajectory, TrajectoryPipeline, TrajectorySettings
from rectiflow_trajectories.data import PreparedTrajectories, Windows, prepare
from rectiflow_trajectories.data.prepare import record_of
from rectiflow_trajectories.data.prepared import padded
from rectiflow_trajectories.diffusion import Diffusion
from rectiflow_trajectories.evaluation import guesses, measure_windows
from rectiflow_trajectories.io import read_trajectories
from rectiflow_trajectories.likelihood import likelihood_bound
from rectiflow_trajectories.metrics import ade, fde, least, representatives
from rectiflow_trajectories.objective import GRADIENTS, DiffusionObjective, TrajectoryObjective
from rectiflow_trajectories.reflow import pair_sampler
from rectiflow_trajectories.weights import load_official

GIVEN, MADE = 4, 5


def network(given=GIVEN, **sizes):
    torch.manual_seed(0)
    told = {"hidden": 12, "layers": 1, "time_dim": 8, "prior_layers": 1} | sizes
    return EGTN(given=given, frames=MADE, **told)


def pipeline(given=GIVEN, sizes=None, **settings):
    settings = TrajectorySettings(**{"steps": 3} | settings)
    return TrajectoryPipeline(network(given, **(sizes or {})), settings=settings)


def batch(walk, pipe, counts=(3, 2)):
    windows = pipe.windows
    records = [record_of(walk(windows.length, n), windows)[0] for n in counts]
    rows = [padded(record, max(counts)) for record in records]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("mode", GRADIENTS)
def test_where_the_reference_is_trained_from(walk, mode):
    pipe = pipeline()
    objective = TrajectoryObjective(pipe.network, prior_gradient=mode)
    data = batch(walk, pipe)
    losses = {}
    for frozen in (False, True):
        pipe.network.zero_grad()
        if frozen:  # of the flow's own layers, so that what is left is the reference's
            pipe.network.input_linear.requires_grad_(False)
        losses[frozen] = objective(data, torch.Generator().manual_seed(1))
        losses[frozen]["loss"].backward()
    assert pipe.network.ws.grad.abs().max() > 0
    assert losses[True]["loss"] == losses[False]["loss"]


def test_gradient_of_the_whole_loss_is_that_of_its_target_too(walk):
    pipe, grads = pipeline(), {}
    data = batch(walk, pipe)
    for mode in GRADIENTS:
        pipe.network.zero_grad()
        objective = TrajectoryObjective(pipe.network, prior_gradient=mode)
        objective(data, torch.Generator().manual_seed(1))["loss"].backward()
        grads[mode] = pipe.network.ws.grad.clone()
    assert not torch.allclose(grads["full"], grads["input"])
    told = {name: data[name] for name in ("nodes", "edges", "linked", "real")}
    told["given"] = data["positions"][:, :, :GIVEN]
    pipe.network.zero_grad()
    apart = data["positions"][:, :, GIVEN:] - pipe.network.reference(told)
    apart[data["real"]].square().mean().backward()
    torch.testing.assert_close(grads["regression"], pipe.network.ws.grad)


@pytest.mark.parametrize("given", [0, GIVEN])
def test_padding_does_not_change_the_loss(walk, given):
    """A graph beside a larger one costs what it costs alone."""
    pipe = pipeline(given)
    wide = batch(walk, pipe, (2, 5))
    alone = {name: value[:1] for name, value in wide.items()}
    narrow = {
        name: value[:, :2, :2] if name in ("edges", "linked") else value[:, :2]
        for name, value in alone.items()
    }
    t, told = torch.tensor([0.3]), {}
    for key, data in {"wide": alone, "narrow": narrow}.items():
        cond = {name: data[name] for name in ("nodes", "edges", "linked", "real")}
        x = data["positions"][:, :, given:]
        if given:
            cond["given"] = data["positions"][:, :, :given]
            cond["reference"] = pipe.network.reference(cond)
        v = pipe.network(x, t, cond)
        told[key] = Flow().premetric(v, x, cond["real"])
    torch.testing.assert_close(told["wide"], told["narrow"])
    for objective in (TrajectoryObjective(pipe.network),
                      DiffusionObjective(pipe.network, Diffusion(30))):  # fmt: skip
        loss = objective(wide, torch.Generator().manual_seed(0))["loss"]
        loss.backward()
        assert loss.isfinite()


def test_a_few_steps_of_training_beat_the_guesses(walk):
    """Straight walks: the learned reference finds how to go on."""
    pipe = pipeline()
    data = batch(walk, pipe, (3, 3))
    objective = TrajectoryObjective(pipe.network, noise=0.05)
    optimizer = torch.optim.Adam(pipe.network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        found = objective(data, generator)
        found["loss"].backward()
        optimizer.step()
    x = data["positions"][0].movedim(0, 1).double().numpy()
    still = guesses(x[:GIVEN], MADE)["last"]
    pipe.settings = replace(pipe.settings, noise=0.05)
    future = pipe(Trajectory(x[:GIVEN]), steps=4).forecasts[0].futures[0]
    assert ade(future, x[GIVEN:]) < 0.5 * ade(still, x[GIVEN:])


def test_diffusion_as_a_straight_flow_finds_the_data_of_an_oracle():
    diffusion, generator = Diffusion(1000), torch.Generator().manual_seed(0)
    data = torch.randn(4, 3, 5, generator=generator, dtype=torch.float64)

    def noise(y, step, told=None):
        kept = torch.from_numpy(np.interp(step.double().numpy(), np.arange(1000), diffusion.kept))
        kept = kept.view(-1, 1, 1)
        return (y - kept.sqrt() * data) / (1 - kept).sqrt()

    start = torch.randn(data.shape, generator=generator, dtype=torch.float64)
    field = diffusion.velocity(noise, None)
    found = integrate(field, start, plan(uniform(20), Euler()))
    torch.testing.assert_close(found, data, atol=0.05, rtol=0)
    steps = (torch.randn(data.shape, generator=generator).double() for _ in range(1000))
    random = diffusion.sample(noise, start, steps)
    torch.testing.assert_close(random, data, atol=0.05, rtol=0)
    assert (np.diff(Diffusion(100, "cosine").kept) < 0).all()
    with pytest.raises(ValueError, match="more than 20 steps, got 20"):
        Diffusion(20)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_forecasts_turn_and_move_with_the_input(walk, dimensions):
    sizes = {"prior": "learned"}
    pipe = pipeline(sizes=sizes, dimensions=dimensions, noise=1e-6)
    trajectory = walk(9, dimensions=dimensions)
    turn = o3.rand_matrix(dtype=torch.float64).numpy()
    if dimensions == 2:
        turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    there = replace(trajectory, positions=trajectory.positions @ turn.T + 1e4)
    one, other = (pipe(t).forecasts[0].futures for t in (trajectory, there))
    np.testing.assert_allclose(other, one @ turn.T + 1e4, atol=2e-3)


def test_a_sample_is_the_same_in_any_company(walk):
    pipe = pipeline()
    some = [walk(9, n) for n in (3, 5, 2)]
    whole = pipe(some, num=2, seed=4).forecasts
    [alone] = pipe(some[2], num=2, indices=[2], seed=4).forecasts
    np.testing.assert_allclose(alone.futures, whole[2].futures, atol=1e-5)
    assert np.abs(alone.futures[0] - alone.futures[1]).max() > 0.1
    assert alone.spread > 0
    assert whole[0].futures.shape == (2, MADE, 3, 3)
    np.testing.assert_array_equal(whole[0].given, some[0].positions[-GIVEN:])


def test_units_are_those_of_the_file(walk):
    pipe = pipeline(unit="m")
    metres, millimetres = walk(9, unit="m"), walk(9, unit="mm")
    millimetres = replace(millimetres, positions=metres.positions * 1000)
    one, other = (pipe(t).forecasts[0] for t in (metres, millimetres))
    assert other.unit == "mm"
    np.testing.assert_allclose(other.futures, one.futures * 1000, rtol=1e-4, atol=1e-2)
    [bare] = pipe(walk(9)).forecasts
    assert bare.told["notes"] == ["the file tells no unit; lengths are taken to be in m"]


def test_what_cannot_be_forecast(walk):
    pipe = pipeline()
    for trajectory, said in (
        (walk(1), r"has 1 frame\(s\), and the network is told 4; expected at least 4"),
        (walk(9, dimensions=2), "has 2 dimensions, got weights of 3"),
        (walk(9, box=np.ones(3)), "the box is periodic"),
    ):
        with pytest.raises(ValueError, match=said):
            pipe(trajectory)
    with pytest.raises(ValueError, match="num and steps must be at least 1"):
        pipe(walk(9), num=0)
    with pytest.raises(ValueError, match="are of a straight flow"):
        pipe(walk(9), ancestral=True)


def test_whole_trajectories_and_ancestral_steps(walk):
    pipe = pipeline(0, diffusion=30)
    for ancestral in (False, True):
        [made] = pipe(walk(1), ancestral=ancestral).forecasts
        assert made.futures.shape == (1, MADE, 3, 3)
        assert np.abs(made.futures.mean((1, 2))).max() < 1e-5 * np.abs(made.futures).max()
        assert made.given.shape[0] == 0


@pytest.mark.parametrize("given", [0, GIVEN])
def test_the_bound_of_a_graph_is_its_own(walk, given):
    pipe = pipeline(given, diffusion=30)
    records = [record_of(walk(pipe.windows.length, n), pipe.windows)[0] for n in (3, 5)]
    both = likelihood_bound(pipe, records, [(0, 0), (1, 0)])
    torch.testing.assert_close(likelihood_bound(pipe, records[1:], [(1, 0)]), both[1:])
    assert both.isfinite().all()
    with pytest.raises(ValueError, match="are of a straight flow"):
        likelihood_bound(pipeline(given), records, [(0, 0), (1, 0)])


@pytest.mark.parametrize("suffix", [".npz", ".csv"])
def test_results_are_written(tmp_path, walk, suffix):
    result = pipeline()(walk(9, names=("a", "b", "c")), num=2)
    result.save(tmp_path, suffix=suffix)
    path = tmp_path / f"trajectory_0000{suffix}"
    made = result.forecasts[0]
    if suffix == ".npz":
        with np.load(path) as found:
            np.testing.assert_array_equal(found["futures"], made.futures)
            assert found["names"].tolist() == ["a", "b", "c"]
        return
    head, *rows = path.read_text().split()
    assert head == "sample,frame,node,x,y,z"
    assert len(rows) == 3 * (GIVEN + 2 * MADE)
    assert rows[0].startswith(f",-{GIVEN},a,")
    values = np.array([row.split(",")[3:] for row in rows[-3:]], dtype=float)
    np.testing.assert_allclose(values, made.futures[1, -1], rtol=1e-6)


@pytest.mark.parametrize("given", [0, GIVEN])
def test_pairs_keep_the_teachers_reference(walk, given):
    pipe = pipeline(given)
    windows = pipe.windows
    records = [record_of(walk(windows.length, n), windows)[0] for n in (3, 2)]
    pairs = pair_sampler(pipe, records, steps=2)([0, 1, 3])
    again = pair_sampler(pipe, records, steps=2)([3])[0]
    torch.testing.assert_close(pairs[2].x1, again.x1)
    assert pairs[1].x0[2].abs().max() == 0  # padding
    assert not torch.equal(pairs[1].x0, pairs[2].x0)
    objective = TrajectoryObjective(pipe.network)
    stored = [pair.to_record() for pair in pairs]
    rows = {name: torch.stack([each[name] for each in stored]) for name in stored[0]}
    loss = objective(rows, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    if given:
        assert pipe.network.ws.grad is None


@pytest.mark.parametrize("given", [0, GIVEN])
def test_checkpoints_of_the_authors(tmp_path, given):
    own = network(given, node_dim=30, edge_dim=4)
    tensors = {f"module.{name}": value for name, value in own.state_dict().items()}
    torch.save(tensors, tmp_path / "geotdm.pt")
    told = {"given": given} if given else {}
    pipe = load_official(tmp_path, frames=MADE, **told)
    assert (pipe.settings.kind, pipe.settings.unit) == ("molecule", "angstrom")
    assert pipe.settings.diffusion == 1000
    assert pipe.network.config | {"prior": ""} == own.config | {"prior": ""}
    del tensors["module.input_linear.bias"]
    torch.save(tensors, tmp_path / "geotdm.pt")
    with pytest.raises(ValueError, match=r"input_linear.bias"):
        load_official(tmp_path, **told)
    torch.save({"a": torch.zeros(1)}, tmp_path / "geotdm.pt")
    with pytest.raises(ValueError, match="is not of EGTN"):
        load_official(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="has 0 checkpoints"):
        load_official(tmp_path / "none")


def test_checkpoints_come_back(tmp_path, walk):
    pipe = pipeline(unit="nm", scale=2.0)
    pipe.save_pretrained(tmp_path)
    again = TrajectoryPipeline.from_pretrained(tmp_path)
    assert again.settings == pipe.settings
    one, other = (p(walk(9)).forecasts[0].futures for p in (pipe, again))
    np.testing.assert_array_equal(one, other)


def test_errors_of_displacement():
    true = np.zeros((3, 2, 3))
    made = true + np.array([3.0, 0, 4]) * np.arange(3)[:, None, None]
    assert ade(made, true) == pytest.approx(5)
    assert fde(made[None], true).tolist() == [10.0]


def test_the_least_errors_of_pedestrians_are_each_ones_own():
    true = np.zeros((2, 2, 2))
    made = np.zeros((2, 2, 2, 2))
    made[0, :, 0] = made[1, :, 1] = [3.0, 4.0]  # each sample suits one of the nodes
    assert least(made, true) == (2.5, 2.5)
    assert least(made, true, apart=True) == (0.0, 0.0)
    ends = np.repeat([[0.0, 0], [9, 9], [0, 9]], 7, 0) + np.random.default_rng(0).random((21, 2))
    kept = representatives(np.stack([ends, ends], 1)[:, :, None], 3)
    assert kept.shape == (3, 2, 1, 2)
    corners = {tuple(np.floor(end / 5)) for end in kept[:, -1, 0]}
    assert corners == {(0, 0), (1, 1), (0, 1)}
    with pytest.raises(ValueError, match="1 to the 3 samples, got 4"):
        representatives(kept, 4)


def test_scenes_of_text_are_forecast_and_measured(tmp_path):
    """Pedestrians who come and go, a frame that is missing, windows of unequal company."""
    scene = tmp_path / "scenes" / "test" / "zara.txt"
    scene.parent.mkdir(parents=True)
    spans = {1: (0, 30), 2: (3, 22), 3: (12, 30)}
    rows = [
        f"{10 * t} {who} {0.4 * t} {who}"
        for t in range(30)
        for who, (start, stop) in spans.items()
        if start <= t < stop and t != 14
    ]
    scene.write_text("\n".join(rows))
    prepare(tmp_path / "scenes", tmp_path / "shards",
            windows=Windows("pedestrians", given=GIVEN, frames=MADE, stride=3))  # fmt: skip
    prepared = PreparedTrajectories(tmp_path / "shards")
    assert set(prepared.table["nodes"]) == {1, 2, 3}
    sizes = {"node_dim": 2, "edge_dim": 0, "pre_norm": True, "prior": "velocity"}
    pipe = pipeline(sizes=sizes, kind="pedestrians", dimensions=2, unit="m", noise=0.01)
    told = measure_windows(pipe, prepared, range(len(prepared.table["nodes"])), num=20, clusters=8)
    assert all(0 < row["min_ade"] < row["ade"] for row in told)
    [forecast] = pipe(read_trajectories(scene), num=20).forecasts
    assert forecast.names == ("1", "3")
    assert forecast.futures.shape == (20, MADE, 2, 2)
    assert forecast.unit == "m"


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"kind": "cars"}, "kind must be one of"),
        ({"dimensions": 4}, "dimensions must be 2 or 3"),
        ({"scale": 0.0}, "scale must be positive"),
        ({"steps": 0}, "steps must lie in 1 to 10000"),
    ],
)
def test_unusable_settings(told, said):
    with pytest.raises(ValueError, match=said):
        TrajectorySettings(**told)
