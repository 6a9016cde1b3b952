"""Methods of fewer steps, by the generic verbs: they train, and what they leave runs."""

import json
from pathlib import Path

import pytest
import torch
from rectiflow.poisson import StudentT
from rectiflow.rectify import Jump, sample_generator, slim, to_map
from rectiflow.solvers import Euler, Midpoint
from rectiflow_audio import SeparationPipeline
from rectiflow_audio.networks import SeparationUNet
from rectiflow_cli.hydra_app import compose
from rectiflow_cli.main import main
from rectiflow_cli.train import build
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.sampling import noise_of
from rectiflow_shape.pipeline import ShapePipeline

ONE = ["trainer.max_steps=1", "trainer.validate_every=null", "trainer.checkpoint_every=1"]


pytestmark = pytest.mark.usefixtures("in_work")


def run(domain, verb, experiment, debug, folder, *more):
    words = [f"experiment={experiment}", f"debug={debug}", *ONE, f"hydra.run.dir={folder}"]
    return main([domain, verb, *words, *map(str, more)])


def test_an_adapter_learns_alone_and_is_used_alone(work, capsys):
    folder = work / "adapter"
    train = ("audio", "train", "small_adapter", "tiny", folder, "data.module.rules.snr_db=[-5,5]")
    assert run(*train, "optimizer.lr=0.1") == 0
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        base = build(compose("audio", "train", ["debug=tiny"]).network)
    merged = SeparationPipeline.from_pretrained(folder)
    (work / "base").mkdir()
    SeparationPipeline(base, merged.vae, settings=merged.settings).save_pretrained(work / "base")
    before = SeparationPipeline.from_pretrained(work / "base")
    plain = before.weights_hash
    after = before.adapt(folder)
    assert after.weights_hash != plain
    read = after.unet.state_dict()
    for name, value in merged.unet.state_dict().items():
        assert torch.allclose(read[name], value, atol=1e-6)
    assert not torch.equal(merged.unet.unet.conv_in.weight, base.unet.conv_in.weight)
    sound = work / "in.wav"
    import numpy as np
    import soundfile

    soundfile.write(sound, 0.1 * np.sin(np.arange(12_000) / 9), 16_000)
    told = ["--query", "a tone", "--weights", str(work / "base"), "--steps", "1", "--device", "cpu"]
    separate = ["audio", "separate", str(sound), *told]
    assert main([*separate, "--adapter", f"{folder}:0.5", "-o", "half.wav"]) == 0
    assert json.loads(Path("half.json").read_text())["settings"]["adapters"] == [[str(folder), 0.5]]
    capsys.readouterr()
    assert main([*separate, "--adapter", str(work), "-o", "none.wav"]) == 2
    assert "no adapter at" in capsys.readouterr().err


MAPS = [*((name, "tiny_pairs") for name in ("audio", "pde", "shape")), ("protein", "tiny")]


@pytest.mark.parametrize(("domain", "debug"), MAPS)
def test_maps_train_and_jump(domain, debug, work):
    folder = work / f"map_{domain}"
    assert run(domain, "reflow", "small_map", debug, folder) == 0
    network = {"audio": "unet", "protein": "."}.get(domain, "network")
    told = json.loads((folder / "export" / network / "config.json").read_text())
    assert told["config"]["is_map"] is True


def test_shapes_are_made_in_jumps(work):
    pipe = ShapePipeline.from_pretrained(work / "map_shape")
    assert pipe.options().solver == pipe.options(solver=Euler()).solver == Jump()
    assert pipe.options(solver=Midpoint()).solver == Midpoint()
    weights = ["--weights", str(work / "map_shape"), "--device", "cpu"]
    words = ["--num", "1", "--steps", "2", "--depth", "4", *weights]
    assert main(["shape", "sample", *words, "-o", str(work / "shapes")]) == 0
    told = json.loads((work / "shapes" / "result.json").read_text())["settings"]
    assert (told["solver"], told["nfe"]) == ("Jump()", 2)


@pytest.mark.parametrize("experiment", ["small_slim", "small_distill"])
def test_chains_train_students(experiment, work):
    assert run("protein", "reflow", experiment, "tiny", work / experiment) == 0
    made = json.loads((work / experiment / "export" / "config.json").read_text())["config"]
    assert made["sizes"]["c_s"] == (16 if experiment == "small_slim" else 32)


def test_a_slim_mosaic_knows_the_spreads_of_its_teacher():
    words = ["debug=tiny"]
    teacher = build(compose("shape", "train", words).network)
    teacher.spreads += torch.arange(3.0)
    student = slim(teacher)
    assert torch.equal(student.spreads, teacher.spreads)
    assert student.config == {**teacher.config, "width": 8, "heads": 1}


def test_chains_are_made_in_jumps(work):
    words = ["--length", "12", "--num", "1", "--steps", "2", "--seed", "1", "--device", "cpu"]
    weights = ["--weights", str(work / "map_protein")]
    assert main(["protein", "sample", *words, *weights, "-o", str(work / "chains")]) == 0
    assert list((work / "chains").glob("*.pdb"))


PAIRED = {
    "audio": ("consistency", "consistency_adapter", "slim", "slim_distill", "instaflow", "rfpp"),
    "pde": ("consistency", "consistency_adapter", "slim", "slim_distill", "distill"),
    "shape": ("slim", "distill"),
}
ALL = [(domain, f"small_{name}") for domain, names in PAIRED.items() for name in names]


@pytest.fixture(scope="module")
def batches(work):
    """A batch of made-up pairs of each domain, by its debug config."""
    made = {}

    def of(domain, debug):
        if (domain, debug) not in made:
            name = "small_rectify" if debug == "tiny_pairs" else "small_diffusion_rectify"
            told = compose(domain, "reflow", [f"experiment={name}", f"debug={debug}"]).data
            folder = build(told.stand_in)(work / f"{domain}_{debug}")
            data = build(told.module, folder=str(folder))
            made[domain, debug] = torch.utils.data.default_collate(
                [data.dataset[i] for i in (0, 1)]
            )
        return made[domain, debug]

    return of


@pytest.mark.parametrize(("domain", "experiment"), [*ALL, ("pde", "small_diffusion_rectify")])
def test_every_method_takes_a_step(domain, experiment, batches):
    debug = "tiny_diffusion_pairs" if "diffusion" in experiment else "tiny_pairs"
    words = [f"experiment={experiment}", f"debug={debug}"]
    objective = build(compose(domain, "reflow", words).training).objective
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # a new network says zero, which is consistent
        for weight in objective.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    batch = {**batches(domain, debug), "step": torch.tensor(0)}
    loss = objective(batch, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    trained = [p for p in objective.network.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)
    frozen = [p for n, p in objective.named_parameters() if not n.startswith("network.")]
    assert all(p.grad is None for p in frozen if not p.requires_grad)


def test_flows_from_heavy_tails_know_their_noise(work):
    words = ("validation=none", "sampling.dimensions=3.0")
    source = "training.objective.flow.source.dimensions=3.0"
    assert run("pde", "train", "small_poisson", "tiny", work / "poisson", *words, source) == 0
    pipe = SimulationPipeline.from_pretrained(work / "poisson")
    assert pipe.settings.dimensions == 3.0
    drawn = noise_of(pipe, [0, 1], seed=5)
    told = torch.empty(1, *pipe.codec.latent_shape)
    wanted = StudentT(3.0).sample_like(told, generator=sample_generator(5, 1))
    assert torch.equal(drawn[1:], wanted)


@pytest.mark.parametrize("domain", ["audio", "protein", "pde", "shape"])
def test_a_map_equals_its_parent_bit_for_bit(domain):
    torch.manual_seed(0)
    words = ["debug=tiny"] + (["experiment=small"] if domain == "pde" else [])
    parent = build(compose(domain, "train", words).network).eval()
    made = to_map(parent)
    n, t, until = 2, torch.tensor([0.2, 0.6]), torch.tensor([1.0, 0.7])
    if domain == "protein":
        x = {"trans": 10 * torch.randn(n, 9, 3), "rot": torch.randn(n, 9, 4)}
        told = {"res_idx": torch.arange(9.0).expand(n, 9)}
        args: tuple = ()
    elif domain == "audio":
        assert isinstance(parent, SeparationUNet)
        x, told = torch.randn(n, 8, 8, 8), {}
        context = torch.randn(n, 3, parent.sizes.context_channels)
        mask = torch.ones(n, 3)
        args = ({"mixture": torch.randn_like(x), "context": context, "context_mask": mask},)
    elif domain == "shape":
        x, told = torch.randn(n, 8, parent.channels), {}
        args = ({"label": torch.zeros(n), "context": torch.randn(n, 1, 384)},)
    else:
        sizes = parent.sizes
        x, told = torch.randn(n, sizes.channels, *sizes.grid), {}
        beside = torch.randn(n, sizes.told, *sizes.grid)
        args = ({"numbers": torch.rand(n, 5), "beside": beside},)
    for value in parent.parameters():  # networks that start as the identity would prove nothing
        value.data += 0.01
    made.load_state_dict({**made.state_dict(), **parent.state_dict()})
    with torch.no_grad():
        before, after = parent(x, t, *args, **told), made(x, t, *args, **told, until=until)
    same = (
        [(before[k], after[k]) for k in before] if isinstance(before, dict) else [(before, after)]
    )
    assert all(torch.equal(a, b) for a, b in same)
