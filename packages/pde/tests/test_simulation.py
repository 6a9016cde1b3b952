"""From words or a first frame to a flow, on any mesh; what is odd is told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rectiflow.integrate import integrate, plan
from rectiflow.rectify import generate_pairs
from rectiflow.solvers import Euler
from rectiflow.storage.faults import FileError
from rectiflow_pde.data.rasters import RasteredFlows
from rectiflow_pde.data.synthetic import synthetic_flow
from rectiflow_pde.data.windows import FlowWindows, collate
from rectiflow_pde.evaluation import (
    Guess,
    by_pipeline,
    cut,
    evaluate,
    persistence,
    time_mean,
)
from rectiflow_pde.examples import SHEDDING
from rectiflow_pde.flow import Diffusion
from rectiflow_pde.guard import Guard, strange
from rectiflow_pde.io.first_frame import read_first_frame
from rectiflow_pde.latent_objective import (
    DiffusionObjective,
    SimulationObjective,
    SurrogateObjective,
)
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.networks import (
    DitConfig,
    LatentTransformer,
    MeshAutoencoder,
    MeshConfig,
    MeshFrameConditioner,
    MeshFrameConfig,
)
from rectiflow_pde.networks.convolution import ConvConfig
from rectiflow_pde.networks.discriminator import MeshDiscriminator
from rectiflow_pde.networks.patches import PatchCodec, PatchConfig
from rectiflow_pde.networks.simulator import FlowTransformer, beside
from rectiflow_pde.networks.transforms import TransformConfig
from rectiflow_pde.objective import AdversarialCodecObjective, CodecObjective
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.raster import Raster
from rectiflow_pde.reflow import pair_sampler
from rectiflow_pde.request import make_request, obstacle_of
from rectiflow_pde.result import read_npz
from rectiflow_pde.sampling import condition, fields, latents
from rectiflow_pde.scaling import NUMBERS, Scaling
from rectiflow_pde.settings import SimulationSettings
from rectiflow_pde.trajectory import Trajectory
from rectiflow_pde.verify import verify
from rectiflow_pde.weights import load_official, load_official_codec, save_official

RASTER = Raster((24, 12))
WORDS = "flow past a cylinder of radius 0.05 at Reynolds number 120"


@pytest.fixture(scope="module")
def flows():
    return [synthetic_flow(i, frames=14) for i in range(4)]


@pytest.fixture(scope="module")
def scaling(flows):
    return Scaling.of(flows)


@pytest.fixture(scope="module")
def rastered(flows, scaling):
    return RasteredFlows(flows, RASTER, scaling, 12)


@pytest.fixture(scope="module")
def pipe(rastered, scaling):
    """Untrained, but for its codec; every path of the network is alive."""
    codec = PatchCodec(PatchConfig(3, (24, 12), 12, (6, 6, 6), 16))
    codec.fit(rastered.flows)
    torch.manual_seed(0)
    network = FlowTransformer(DitConfig((4, 2, 2), (1, 1, 1), 16, 17, 16, 1, 2, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    first = torch.stack([rastered[i]["flow"][..., :1].expand(-1, -1, -1, 12) for i in range(4)])
    guard = Guard.of(codec.encode(first))
    settings = SimulationSettings(scaling, RASTER, 12, 0.05, 1e-3, 2)
    return SimulationPipeline(network, codec, None, guard, settings=settings)


def test_raster_is_exact_for_linear_fields_between_meshes():
    mesh = mesh_channel(Channel(0.0), 0.05, 0.05)
    field = 2 * mesh.points[:, :1] - mesh.points[:, 1:] + 1
    grid = RASTER.from_mesh(mesh, field[None])
    inner = np.array([[0.3, 0.2], [1.17, 0.111]])
    found = RASTER.to_points(grid, inner)[0, :, 0]
    np.testing.assert_allclose(found, [1.4, 3.229], atol=1e-5)


def test_scaling_is_undone_and_knows_no_speed(flows, scaling):
    flow = flows[0]
    values = scaling.normalise(flow.stacked, flow.parameters)
    np.testing.assert_allclose(scaling.restore(values, flow.parameters), flow.stacked, atol=1e-5)
    faster = flow.parameters | {"u_mean": 2 * flow.parameters["u_mean"]}
    scaled = flow.stacked * np.array([2, 2, 4], np.float32)
    torch.testing.assert_close(scaling.normalise(scaled, faster), values, rtol=1e-4, atol=1e-5)
    numbers = scaling.numbers({"radius": scaling.high[1]})
    assert numbers[1] == 1
    assert numbers.isnan().sum() == len(NUMBERS) - 1


def test_a_mirrored_example_is_that_of_the_mirrored_flow(flows, scaling, rastered):
    flow = flows[1]
    points = flow.mesh.points * [1, -1] + [0, 0.41]
    fields = {k: -v if k == "v" else v for k, v in flow.fields.items()}
    mesh = type(flow.mesh)(points, flow.mesh.triangles[:, ::-1], flow.mesh.node_type)
    told = flow.parameters | {"centre_y": 0.41 - flow.parameters["centre_y"]}
    turned = RasteredFlows([Trajectory(mesh, flow.times, fields, told)], RASTER, scaling, 12)[0]
    draws = (rastered[1, draw] for draw in range(40))
    half = [item for item in draws if torch.allclose(item["numbers"], turned["numbers"], atol=1e-5)]
    assert 5 < len(half) < 35
    begun = next(h for h in half if torch.allclose(h["flow"], turned["flow"], atol=1e-4))
    assert begun["flow"].shape == (3, 24, 12, 12)
    assert torch.equal(rastered[1, 7]["flow"], rastered[1, 7]["flow"])


def test_a_flow_in_fine_steps_is_also_a_faster_and_a_slower_one(flows, scaling):
    mesh, told = flows[0].mesh, flows[0].parameters
    times = 0.0125 * np.arange(61)
    ramp = np.ones((1, mesh.n_nodes), np.float32) * times[:, None].astype(np.float32)
    fine = Trajectory(mesh, times, dict.fromkeys(("u", "v", "p"), ramp), told)
    paces = (0.75, 1.0, 1.25, 1.1)
    made = RasteredFlows([fine], RASTER, scaling, 12, step=0.05, paces=paces, seed=3)
    assert made.flows[0].shape[-1] == 16
    first = made[0]
    assert torch.allclose(first["numbers"], scaling.numbers(told))
    seen = set()
    for draw in range(40):
        item = made[0, draw]
        rates = (item["flow"][0, ..., 1:] - item["flow"][0, ..., :-1]) * told["u_mean"] / 0.05
        pace = float(rates.mean())
        seen.add(round(pace, 3))
        assert float(rates.std()) < 1e-4
        wanted = scaling.numbers({**told, "u_mean": pace * told["u_mean"]})
        assert torch.allclose(item["numbers"][[0, 1, 2, 4]], wanted[[0, 1, 2, 4]], atol=1e-4)
    assert seen == {0.75, 1.0, 1.25}  # 1.1 is between the frames
    with pytest.raises(ValueError, match=r"12 frames 0.03 s apart.*61 frames 0.0125 s apart"):
        RasteredFlows([fine], RASTER, scaling, 12, step=0.03)
    with pytest.raises(ValueError, match=r"14 frames 0.05 s apart"):
        RasteredFlows(flows, RASTER, scaling, 15)


def test_words_alone_make_mesh_and_flow(pipe, tmp_path):
    made = pipe(WORDS, num=2, steps=2)
    first, second = made.flows
    assert first.parameters["u_mean"] == pytest.approx(1.2)
    assert obstacle_of(first.mesh)["radius"] == pytest.approx(0.05, rel=1e-3)
    assert first.stacked.shape == (12, first.mesh.n_nodes, 3)
    assert np.abs(first.stacked - second.stacked).max() > 1e-3
    assert made.spread.max() > 0
    assert not first.stacked[:, first.mesh.node_type >= 3, :2].any()
    assert any("default taken" in line for line in made.warnings)
    again = pipe(WORDS, indices=[1], steps=2).flows[0]
    np.testing.assert_allclose(again.stacked, second.stacked, atol=1e-5)
    files = made.save(tmp_path)
    assert [file.name for file in files] == ["flow_0000.npz", "flow_0001.npz"]
    read = read_npz(files[0])
    assert np.array_equal(read.stacked, first.stacked)
    assert read.parameters == pytest.approx(first.parameters)
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["prompt"] == WORDS


def test_a_first_frame_is_kept_and_decides(pipe, flows):
    flow = flows[0]
    frame = flow.stacked[0]
    made = pipe(mesh=flow.mesh, first_frame=frame, steps=2)
    found = made.flows[0]
    assert np.array_equal(found.stacked[0], frame)
    assert found.parameters["u_mean"] == pytest.approx(flow.parameters["u_mean"], rel=0.05)
    other = pipe(mesh=flow.mesh, first_frame=frame * [1, -1, 1], steps=2).flows[0]
    assert np.abs(other.stacked[1:] - found.stacked[1:]).max() > 1e-4
    finer = mesh_channel(
        Channel(flow.parameters["radius"],
                (flow.parameters["centre_x"], flow.parameters["centre_y"])), 0.012, 0.05
    )  # fmt: skip
    onto = pipe(mesh=flow.mesh, first_frame=frame, onto=finer, steps=2).flows[0]
    assert onto.mesh.n_nodes == finer.n_nodes > flow.mesh.n_nodes
    order = np.random.default_rng(0).permutation(flow.mesh.n_nodes)
    back = np.argsort(order)
    mesh = type(flow.mesh)(
        flow.mesh.points[order], back[flow.mesh.triangles], flow.mesh.node_type[order]
    )
    renumbered = pipe(mesh=mesh, first_frame=frame[order], steps=2).flows[0]
    np.testing.assert_allclose(renumbered.stacked, found.stacked[:, order], atol=1e-4)


def test_a_longer_simulation_goes_on_from_a_frame_of_its_own(pipe, flows):
    flow = flows[0]
    told = {"mesh": flow.mesh, "first_frame": flow.stacked[0], "steps": 2}
    once = pipe(**told).flows[0]
    made = pipe(**told, num=2, frames=23, restart=5)
    assert (made.settings["stretches"], made.settings["restart"]) == (5, 5)
    long = made.flows[0]
    np.testing.assert_allclose(np.diff(long.times), 0.05, atol=1e-9)
    assert long.stacked.shape == (23, flow.mesh.n_nodes, 3)
    np.testing.assert_allclose(long.stacked[:6], once.stacked[:6], atol=1e-5)
    assert not np.allclose(long.stacked[6:12], once.stacked[6:12], atol=1e-3)
    # The last stretch is what the network makes of frame 20, with noise of its own.
    cond = condition(pipe, make_request(mesh=flow.mesh, first_frame=flow.stacked[0]))
    for number in range(5):
        z = latents(pipe, cond, [0], steps=2, seed=0, stretch=number)
        first = pipe.codec.decode(z)[..., 5:6].expand(-1, -1, -1, -1, 12)
        cond = {**cond, "beside": beside(pipe.codec.encode(first))}
    last = fields(pipe, z, flow.mesh, make_request(mesh=flow.mesh, first_frame=flow.stacked[0]))
    np.testing.assert_allclose(long.stacked[21:], last[0, 1:3], atol=1e-5)
    alone = pipe(**told, indices=[1], frames=23, restart=5).flows[0]
    np.testing.assert_allclose(alone.stacked, made.flows[1].stacked, atol=1e-5)
    assert not np.allclose(alone.stacked[20], long.stacked[20], atol=1e-3)


def test_a_checkpoint_says_how_long_a_simulation_is(pipe, flows, tmp_path):
    settings = replace(pipe.settings, length=30, restart=7)
    long = SimulationPipeline(pipe.network, pipe.codec, None, pipe.guard, settings=settings)
    long.save_pretrained(tmp_path / "long")
    read = SimulationPipeline.from_pretrained(tmp_path / "long")
    assert read.settings == settings
    assert read.stretches() == 5
    assert len(read(WORDS, steps=1).flows[0].times) == 30
    assert len(read(WORDS, steps=1, frames=4).flows[0].times) == 4
    for told in ({"restart": 12}, {"restart": 0}, {"frames": 0}):
        with pytest.raises(ValueError, match="restart lie in 1 to 11"):
            read(WORDS, **told)
    with pytest.raises(ValueError, match="a frame of a stretch, 1 to 11, got 12"):
        replace(settings, restart=12)
    with pytest.raises(ValueError, match="length must lie in 1 to"):
        replace(settings, length=0)


def test_the_shipped_march_leaves_less_than_half_of_the_error_of_the_repeated_frame():
    pipe = SimulationPipeline.from_pretrained("small_march")
    flow = cut(read_npz(SHEDDING), 24, pipe.settings.frame_step)
    found = evaluate(
        {"": flow}, [Guess("still", persistence), by_pipeline(pipe, steps=5)], frames=24
    )
    still, simulated = (row["relative_l2"] for row in found.rows)
    assert simulated < 0.5 * still


def test_requests_that_do_not_fit_are_refused_or_said(flows):
    mesh, frame = flows[0].mesh, flows[0].stacked[0]
    with pytest.raises(ValueError, match="prompt, a first frame, or both"):
        make_request()
    with pytest.raises(ValueError, match="needs the mesh"):
        make_request(WORDS, first_frame=frame)
    with pytest.raises(ValueError, match=f"{mesh.n_nodes} nodes"):
        make_request(mesh=mesh, first_frame=frame[1:])
    broken = frame.copy()
    broken[:3] = np.nan
    with pytest.raises(ValueError, match=r"NaN.* 3 of"):
        make_request(mesh=mesh, first_frame=broken)
    moved = make_request(mesh=mesh, first_frame=frame + 1)
    assert any("no-slip" in note for note in moved.notes)
    both = make_request("a cylinder of radius 0.02 at Re 100", mesh=mesh, first_frame=frame)
    assert any("radius 0.02" in note for note in both.notes)


def test_first_frames_are_read_by_position_and_refused_by_number(tmp_path, flows):
    mesh, frame = flows[0].mesh, flows[0].stacked[0].astype(np.float64)

    def write(**arrays):
        np.savez(tmp_path / "frame.npz", **arrays)
        return tmp_path / "frame.npz"

    columns = dict(zip("uvp", frame.T, strict=True))
    assert np.array_equal(read_first_frame(write(**columns), mesh)[0], frame)
    order = np.random.default_rng(0).permutation(mesh.n_nodes)
    turned = {name: values[order] for name, values in columns.items()}
    found, notes = read_first_frame(write(**turned, pos=mesh.points[order]), mesh)
    assert np.array_equal(found, frame)
    assert not notes
    found, notes = read_first_frame(
        write(**{k: np.stack([v] * 6) for k, v in columns.items()}), mesh
    )
    assert np.array_equal(found, frame)
    assert "6 frames" in notes[0]
    with pytest.raises(FileError, match="from those of the mesh"):
        read_first_frame(write(**columns, pos=mesh.points + 0.01), mesh)
    with pytest.raises(FileError, match=f"{mesh.n_nodes - 1} values for {mesh.n_nodes} nodes"):
        read_first_frame(write(**{k: v[1:] for k, v in columns.items()}), mesh)
    with pytest.raises(FileError, match="lacks p"):
        read_first_frame(write(u=columns["u"], v=columns["v"]), mesh)


def test_the_guard_tells_what_it_does_not_know(pipe, flows):
    inside = pipe(mesh=flows[0].mesh, first_frame=flows[0].stacked[0], steps=1)
    assert not [line for line in inside.warnings if "trained" in line or "unlike" in line]
    outside = pipe("flow past a cylinder of radius 0.05 m at Reynolds number 300", steps=1)
    assert any("300" in line and "range" in line for line in outside.warnings)
    odd = flows[0].stacked[0] + np.random.default_rng(0).normal(size=(flows[0].mesh.n_nodes, 3))
    odd[flows[0].mesh.node_type == 1] = flows[0].stacked[0][flows[0].mesh.node_type == 1]
    noisy = pipe(mesh=flows[0].mesh, first_frame=odd, steps=1)
    assert any("unlike" in line for line in noisy.warnings)
    assert any("divergence" in line for line in noisy.warnings)


def test_the_guard_knows_the_channel_and_the_obstacle(scaling):
    mesh = mesh_channel(Channel(0.05, (0.3, 0.2)), 0.02, 0.08)
    assert not strange(mesh, scaling)
    tall = mesh_channel(Channel(0.05, (0.3, 0.2), height=0.6), 0.02, 0.1)
    [line] = strange(tall, scaling)
    assert "0.6 m" in line
    assert "1.6 x 0.41" in line
    off = mesh.points - np.array([0.3, 0.2])
    near = np.exp(-(((off**2).sum(1) / 0.12**2) ** 2))[:, None]
    oval = Mesh(mesh.points - near * off * [0.3, 0], mesh.triangles, mesh.node_type)
    assert "not one circle" in strange(oval, scaling)[0]
    assert "no obstacle" in strange(mesh_channel(Channel(0.0), 0.05, 0.05), scaling)[0]


def test_the_guard_compares_a_flow_with_other_flows_alone():
    places = torch.randn(6, 4, 3, 2, 1, generator=torch.Generator().manual_seed(0))
    twice = torch.cat([places, places + 1e-3])
    alone, together = Guard.of(twice, [*range(6)] * 2), Guard.of(twice)
    assert (
        alone.limit[0] * alone.usual[0].mean() > 10 * together.limit[0] * together.usual[0].mean()
    )
    assert alone.distance(places[:1]) < 0.1
    assert alone.distance(places[:1] + 5) > 1


def test_pipeline_comes_back_from_disk(pipe, flows, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    again = SimulationPipeline.from_pretrained(tmp_path / "saved")
    assert again.settings == pipe.settings
    told = {"mesh": flows[0].mesh, "first_frame": flows[0].stacked[0], "steps": 1}
    one, two = (each(**told).flows[0].stacked for each in (pipe, again))
    assert np.array_equal(one, two)


@pytest.mark.parametrize("kind", [SimulationObjective, SurrogateObjective])
def test_objectives_repeat_by_their_generator(pipe, rastered, kind):
    batch = {k: torch.stack([rastered[i][k] for i in range(4)]) for k in ("flow", "numbers")}
    objective = kind(pipe.network, pipe.codec, draws=2)
    x1, cond = objective.encode(batch, torch.Generator().manual_seed(0))
    assert len(x1) == len(cond["numbers"]) == 8
    losses = [objective(batch, torch.Generator().manual_seed(s))["loss"] for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    pairs = {"x0": x1, "x1": x1, **{f"cond.{name}": value for name, value in cond.items()}}
    assert objective(pairs, torch.Generator().manual_seed(0))["loss"].isfinite()
    if kind is SurrogateObjective:  # what it is trained to say is what a pipeline of it says
        settings = replace(pipe.settings, guesses=True)
        says = SimulationPipeline(pipe.network, pipe.codec, settings=settings)
        error = (latents(says, cond, range(8), steps=3, seed=1) - x1).square().mean()
        torch.testing.assert_close(
            error, kind(pipe.network, pipe.codec).loss(x1, cond, None)["loss"]
        )
    never = kind(pipe.network, pipe.codec, drop_numbers=1.0, drop_frame=1.0)
    hidden = never.encode(batch, torch.Generator())[1]
    assert hidden["numbers"].isnan().all()
    assert not hidden["beside"].any()


def test_pairs_are_the_noise_and_what_the_teacher_makes_of_it(pipe, rastered, tmp_path):
    sample = pair_sampler(pipe, rastered, steps=3, seed=5)
    [pair] = sample([6])
    [same] = sample([5, 6])[1:]
    torch.testing.assert_close(pair.x1, same.x1, rtol=1e-4, atol=1e-5)
    cond = {name: value[None] for name, value in pair.cond.items()}
    field = lambda x, t: pipe.network(x, torch.full((1,), t), cond)  # noqa: E731
    with torch.no_grad():
        wanted = integrate(field, pair.x0[None], plan([0, 1 / 3, 2 / 3, 1], Euler()))[0]
    torch.testing.assert_close(pair.x1, wanted, rtol=1e-4, atol=1e-5)
    [real] = pair_sampler(pipe, rastered, steps=3, seed=5, real=True)([0])
    torch.testing.assert_close(real.x1, pipe.codec.encode(rastered[0, 0]["flow"][None])[0])
    generate_pairs(sample, tmp_path, num=4, batch=2, seed=5, progress=False)


def test_the_metric_and_its_baselines(flows, pipe):
    flow = flows[0]
    guesses = [Guess("persistence", persistence), Guess("time mean", time_mean)]
    guesses.append(Guess("truth", lambda flow: flow.stacked))
    guesses.append(by_pipeline(pipe, steps=1))
    found = evaluate({"a": flow, "b": flows[1]}, guesses, frames=12)
    assert len(found.rows) == 8
    told = {"steps": 1, "members": 3, "name": "several"}
    drawn = evaluate({"a": flow, "b": flows[1]}, [by_pipeline(pipe, **told)], frames=12).summary
    spread = drawn["several 1 steps"]["all"]
    assert 0 <= spread["coverage"] <= 1
    assert spread["relative_l2"] > spread["relative_l2_of_mean"] > 0
    rows = [by_pipeline(pipe, **told).simulate(f)[:, 1:] for f in (flow, flows[1])]
    assert rows[0].shape[0] == 3
    assert 0 < spread["spread_skill"] < 2
    summary = found.summary
    assert summary["time mean"]["all"]["relative_l2"] < summary["persistence"]["all"]["relative_l2"]
    assert summary["truth"]["all"]["relative_l2"] == 0
    assert set(summary) == {"persistence", "time mean", "truth", "1 steps"}


# The authors' networks, as narrow as they get.


@pytest.fixture(scope="module")
def official():
    torch.manual_seed(0)
    conv = ConvConfig(16, (1, 2), 1, 4, (1,), 16)
    codec = MeshAutoencoder(MeshConfig(3, 8, TransformConfig(0.0425, 4, (8,)), conv))
    frame = MeshFrameConditioner(
        MeshFrameConfig(
            3, 32, 8, TransformConfig(0.05, 4, (8,), "nonlinear"),
            ConvConfig(16, (1, 2), 1, 4, (1,), 16, dims=2),
        )
    )  # fmt: skip
    network = LatentTransformer(DitConfig((4, 4, 4), (2, 2, 2), 4, 0, 32, 2, 16, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    scaling = Scaling(lengths=(1.6, 0.41), by_inflow=False)
    settings = SimulationSettings(scaling, None, 5, 0.24, 1e-3, 4)
    return SimulationPipeline(network, codec, frame, settings=settings)


def test_official_checkpoints_go_both_ways(official, tmp_path):
    path = save_official(official, tmp_path / "ldm.safetensors")
    statistics = tmp_path / "statistics.csv"
    statistics.write_text("field,mean,std\nu,0.5,2\nv,0,1\np,0.1,3\n")
    with pytest.raises(ValueError, match="--statistics"):
        load_official(path)
    again = load_official(path, statistics=statistics)
    assert again["settings"].scaling.std == (2, 1, 3)
    for name in ("network", "codec", "conditioner"):
        own, read = official.parts[name].state_dict(), again[name].state_dict()
        assert all(torch.equal(own[key], read[key]) for key in own)
    alone = load_official_codec(path)
    assert torch.equal(alone.latent_grid, official.codec.latent_grid)


def test_official_networks_simulate_from_a_first_frame(official, flows):
    flow = flows[0]
    made = official(mesh=flow.mesh, first_frame=flow.stacked[0], steps=4)
    assert made.flows[0].stacked.shape == (5, flow.mesh.n_nodes, 3)
    long = official(mesh=flow.mesh, first_frame=flow.stacked[0], steps=4, frames=8, num=2)
    assert long.flows[0].stacked.shape == (8, flow.mesh.n_nodes, 3)
    np.testing.assert_allclose(long.flows[0].stacked[:5], made.flows[0].stacked, atol=1e-4)
    told = {"mesh": flow.mesh, "first_frame": long.flows[1].stacked[4]}
    z = latents(
        official, condition(official, make_request(**told)), [1], steps=4, seed=0, stretch=1
    )
    after = fields(official, z, flow.mesh, make_request(**told))[0, 1:4]
    np.testing.assert_allclose(long.flows[1].stacked[5:], after, atol=1e-4)
    with pytest.raises(ValueError, match="start from a first frame"):
        official(WORDS)


def test_official_objectives(official, flows):
    scaling = official.settings.scaling
    windows = FlowWindows(flows, scaling, 5)
    batch = collate([windows[0, 1], windows[1, 2]])
    told = [scaling.numbers(flow.parameters) for flow in flows[:2]]
    assert batch["numbers"].shape == torch.stack(told).shape
    generator = torch.Generator().manual_seed(0)
    loss = DiffusionObjective(official.network, official.codec, official.conditioner)
    assert loss(batch, generator)["loss"].isfinite()
    codec = CodecObjective(official.codec)
    found = codec(batch, generator)
    assert found["loss"] >= found["reconstruction"] > 0
    judge = MeshDiscriminator(3, 4, TransformConfig(0.3, 4, (8,), "nonlinear"), 6)
    against = AdversarialCodecObjective(official.codec.requires_grad_(True), judge, start=1)
    assert against.discriminator_loss(batch, 0, generator) is None
    assert against.discriminator_loss(batch, 1, generator)["loss"] > 0
    terms = against.generator_loss(batch, 1, generator)
    assert terms["loss"].isfinite()
    assert "adversarial" in terms


def test_the_diffusion_as_a_flow_is_ddim():
    diffusion = Diffusion()

    def network(x, k, cond):
        return 0.3 * x + 0.001 * k.reshape(-1, 1)

    noise = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = diffusion.grid(20)
    state = diffusion.start(noise, 20)
    field = diffusion.velocity(network)
    found = integrate(lambda x, t: field(x, torch.full((3,), t).double(), None), state,
                      plan(grid, Euler()))  # fmt: skip
    found = found / (grid[-1] ** 2 + (1 - grid[-1]) ** 2) ** 0.5
    x, steps = noise, diffusion.ddim_steps(20)
    shares = diffusion.alphas_cumprod
    before = [shares[0], *shares[steps[:-1]]]
    for k, a, past in reversed(list(zip(steps, shares[steps], before, strict=True))):
        eps = network(x, torch.full((3,), float(k)).double(), None)
        x = past**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - past) ** 0.5 * eps
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-6)


def test_verification_finds_the_solver_right_and_noise_wrong():
    mesh = mesh_channel(Channel(0.05, (0.3, 0.2)), 0.02, 0.06)
    from rectiflow_pde.solvers.cylinder import solve_flow

    told = {"u_mean": 0.3, "viscosity": 1e-3}
    solved = solve_flow(mesh, told, [0.0, 0.05, 0.1])
    assert verify(solved, frames=3).error.max() < 0.02
    shaken = {k: v + 0.1 * (k == "u") for k, v in solved.fields.items()}
    fields = {k: np.concatenate([solved.fields[k][:1], shaken[k][1:]]) for k in shaken}
    assert verify(Trajectory(mesh, solved.times, fields, told), frames=3).error.max() > 0.1
    with pytest.raises(ValueError, match="two frames"):
        verify(solved, begin=2)
